"""Classifiers on frozen features: trained on clips, tested on examples.

Each chooses its one strength on a part of the training examples, whole sources at a time. It scores
every class for a clip. The scores of an example are the mean over its clips.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from pipeline.evaluation.splits import LabelledExamples

STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # of logistic regression (C)
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
class Prediction:
    """
    Attributes:
        examples: int64 [n], the test examples that have features.
        scores: float64 [n, classes], higher is likelier, -inf for a class not trained on.
        chosen: hyperparameters, by name.
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


@dataclass(frozen=True)
class FittedClassifier:
    """A trained classifier.

    Attributes:
        model: of scikit-learn.
        num_classes: of all examples; it was perhaps trained on fewer.
        chosen: the strength, by its name.
    """

    classifier: Classifier
    model: Any
    num_classes: int
    chosen: dict[str, float]

    def predict(self, features: ClipFeatures, examples: np.ndarray) -> Prediction:
        """
        Args:
            examples: int64, of which at least one has features.
        """
        asked = features.of(examples)
        if self.classifier.averages_first:
            asked = asked.averaged()
        scores = np.full((len(asked.example), self.num_classes), -np.inf)
        scores[:, self.model.classes_] = _class_scores(self.model, asked.values)
        return Prediction(*average(scores, asked.example), self.chosen)


def fit(
    classifier: Classifier,
    features: ClipFeatures,
    data: LabelledExamples,
    train: np.ndarray,
    seed: int,
) -> FittedClassifier:
    """Choose the strength on a part of the training examples, then train on all of them.

    With one source there is no part to choose on: the middle strength is taken.

    Args:
        train: int64, labelled examples, of which at least one has features.
    """
    if classifier.averages_first:
        features = features.averaged()
    # Only examples that have features can be drawn for validation.
    train = np.intersect1d(train, features.example)

    def trained(strength: float, examples: np.ndarray) -> FittedClassifier:
        known = features.of(examples)
        targets = data.labels[known.example]
        if len(np.unique(targets)) > 1:
            model = classifier.make(strength, len(targets), seed)
        else:
            model = DummyClassifier()  # scikit-learn's others reject a single class
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(known.values, targets)
        chosen = {classifier.parameter: float(strength)}
        return FittedClassifier(classifier, model, len(data.classes), chosen)

    strengths = [*classifier.strengths]
    inner, validation = _validation_part(train, data.sources, seed)
    if len(validation):
        right = []
        for strength in strengths:
            found = trained(strength, inner).predict(features, validation)
            right.append(np.mean(found.scores.argmax(axis=1) == data.labels[found.examples]))
        strengths = [strengths[int(np.argmax(right))]]
    return trained(strengths[len(strengths) // 2], train)


def _validation_part(
    train: np.ndarray, sources: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Examples to train and to choose on, whole sources each; nothing to choose on with one."""
    if len(np.unique(sources[train])) < 2:
        return train, train[:0]
    splitter = GroupShuffleSplit(n_splits=1, test_size=VALIDATION, random_state=seed)
    inner, validation = next(splitter.split(train, groups=sources[train]))
    return train[inner], train[validation]


def _class_scores(model: Any, values: np.ndarray) -> np.ndarray:
    """float64 [n, classes seen]: decision values, or shares of the votes."""
    if not hasattr(model, "decision_function"):
        return model.predict_proba(values)
    scores = model.decision_function(values)
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
