"""Classifiers on frozen features: trained on clips, judged on examples.

Every one of them chooses its one strength on a part of the training examples, by source, and says
what a class is worth for a clip; an example's values are the mean over its clips.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from pipeline.evaluation.probes import STRENGTHS

# Public ESC-50 protocols search C by decades (CrissCross: 1e-5 to 1 on unnormalised features);
# features of length one need larger ones.
SVM_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
NEIGHBOURS = (1, 5, 10, 20, 50)
TEMPERATURE = 0.07  # of the neighbours' votes (Wu et al. 2018, instance discrimination)
VALIDATION = 0.2  # share of the training sources on which the strength is chosen


@dataclass(frozen=True)
class ClipFeatures:
    """Features of the clips that could be embedded.

    Attributes:
        values: float32 [n, d].
        example: int64 [n], ascending.
    """

    values: np.ndarray
    example: np.ndarray

    def of(self, examples: np.ndarray) -> ClipFeatures:
        """Only the clips of these examples."""
        chosen = np.isin(self.example, examples)
        return ClipFeatures(self.values[chosen], self.example[chosen])

    def averaged(self) -> ClipFeatures:
        """One row an example: the mean of its clips' features, each of length one before."""
        unit = Normalizer().transform(self.values)
        examples, means = average(unit, self.example)
        return ClipFeatures(means.astype(np.float32), examples)


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        examples: int64 [n], the test examples that have features.
        scores: float64 [n, classes], higher is likelier, -inf for a class not trained on.
        chosen: the strength, by its name.
    """

    examples: np.ndarray
    scores: np.ndarray
    chosen: dict[str, float]


def average(values: np.ndarray, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of `values` [n, d] by `example`: int64 [m] ascending and float64 [m, d]."""
    examples, place, counts = np.unique(example, return_inverse=True, return_counts=True)
    sums = np.zeros((len(examples), values.shape[1]))
    np.add.at(sums, place, values)
    return examples, sums / counts[:, None]


def linear(strength: float, clips: int, seed: int) -> Any:
    """Logistic regression on standardised features."""
    del clips, seed
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def svm(strength: float, clips: int, seed: int) -> Any:
    """Linear SVMs, one against the rest, on features of length one."""
    del clips
    return make_pipeline(
        Normalizer(), LinearSVC(C=strength, dual="auto", random_state=seed, max_iter=5000)
    )


def neighbours(strength: float, clips: int, seed: int) -> Any:
    """Votes of the nearest training examples by cosine, weighted by exp(similarity / 0.07)."""
    del seed
    return KNeighborsClassifier(
        n_neighbors=min(int(strength), clips), metric="cosine", weights=_votes, algorithm="brute"
    )


def _votes(distances: np.ndarray) -> np.ndarray:
    return np.exp(-distances / TEMPERATURE)


@dataclass(frozen=True)
class Classifier:
    """How a protocol classifies.

    Attributes:
        make: strength, number of training rows, seed → an unfitted scikit-learn classifier.
        strengths: candidates, weakest first; parameter: what they are called.
        averages_first: sees one averaged feature an example instead of its clips.
    """

    make: Callable[[float, int, int], Any]
    strengths: Sequence[float]
    parameter: str
    averages_first: bool = False


CLASSIFIERS = {
    "linear": Classifier(linear, STRENGTHS, "C"),
    "svm": Classifier(svm, SVM_STRENGTHS, "C"),
    "knn": Classifier(neighbours, NEIGHBOURS, "k", averages_first=True),
}


def classify(
    classifier: Classifier,
    features: ClipFeatures,
    labels: np.ndarray,
    sources: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    seed: int,
) -> Verdict:
    """Train on the clips of `train`, say what each example of `test` is.

    Args:
        labels, sources: int64 [examples].
        train, test: int64, examples of the two sides.
    """
    features = features.averaged() if classifier.averages_first else features
    # Only examples that have features can be drawn for validation.
    train = np.intersect1d(train, features.example)
    strengths = [*classifier.strengths]
    inner, validation = _validation_part(train, sources, seed)
    if len(validation):
        hits = []
        for strength in strengths:
            said = _fit_and_score(
                classifier, strength, features, labels, inner, validation, num_classes, seed
            )
            hits.append(np.mean(said.scores.argmax(axis=1) == labels[said.examples]))
        strengths = [strengths[int(np.argmax(hits))]]
    strength = strengths[len(strengths) // 2]
    return _fit_and_score(classifier, strength, features, labels, train, test, num_classes, seed)


def _validation_part(
    train: np.ndarray, sources: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Examples to train and to choose on, whole sources each; nothing to choose on with one."""
    if len(np.unique(sources[train])) < 2:
        return train, train[:0]
    splitter = GroupShuffleSplit(n_splits=1, test_size=VALIDATION, random_state=seed)
    inner, validation = next(splitter.split(train, groups=sources[train]))
    return train[inner], train[validation]


def _fit_and_score(
    classifier: Classifier,
    strength: float,
    features: ClipFeatures,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    seed: int,
) -> Verdict:
    known, asked = features.of(train), features.of(test)
    chosen = {classifier.parameter: float(strength)}
    scores = np.full((len(asked.example), num_classes), -np.inf)
    targets = labels[known.example]
    if len(np.unique(targets)) == 1:
        scores[:, targets[0]] = 0.0  # scikit-learn refuses to choose between one class
    elif len(asked.example):
        model = classifier.make(strength, len(known.example), seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(known.values, targets)
        scores[:, model.classes_] = _class_scores(model, asked.values)
    examples, means = average(scores, asked.example)
    return Verdict(examples, means, chosen)


def _class_scores(model: Any, values: np.ndarray) -> np.ndarray:
    """float64 [n, classes seen]: decision values, or shares of the votes."""
    if not hasattr(model, "decision_function"):
        return model.predict_proba(values)
    scores = model.decision_function(values)
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
