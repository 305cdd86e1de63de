"""Classifiers on frozen features: trained on clips, tested on examples.

Each chooses its strength on held-out training sources. An example's scores, one for each class, are
the mean over its clips.
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

TEMPERATURE = 0.07  # of the neighbours' votes (Wu et al. 2018, instance discrimination)
VALIDATION = 0.2  # share of the training sources on which the strength is chosen


@dataclass(frozen=True)
class ClipFeatures:
    """Features of the clips that could be embedded."""

    values: np.ndarray  # float32 [n, d]
    example: np.ndarray  # int64 [n], ascending

    def of(self, examples: np.ndarray) -> ClipFeatures:
        """Only the clips of these examples."""
        chosen = np.isin(self.example, examples)
        return ClipFeatures(self.values[chosen], self.example[chosen])

    def averaged(self) -> ClipFeatures:
        """One row an example: the mean of its clips' features, each of length one before."""
        if not len(self.values):
            return self
        unit = Normalizer().transform(self.values)
        examples, means = average(unit, self.example)
        return ClipFeatures(means.astype(np.float32), examples)


def average(values: np.ndarray, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of `values` [n, d] by `example`: int64 [m] ascending and float64 [m, d]."""
    examples, place, counts = np.unique(example, return_inverse=True, return_counts=True)
    sums = np.zeros((len(examples), values.shape[1]))
    np.add.at(sums, place, values)
    return examples, sums / counts[:, None]


def linear(strength: float, clips: int, seed: int) -> Any:
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def svm(strength: float, clips: int, seed: int) -> Any:
    """Linear SVMs, one against the rest, on features of length one."""
    return make_pipeline(
        Normalizer(), LinearSVC(C=strength, dual="auto", random_state=seed, max_iter=5000)
    )


def neighbours(strength: float, clips: int, seed: int) -> Any:
    """Votes of the nearest training examples by cosine, weighted by exp(similarity / 0.07)."""
    return KNeighborsClassifier(
        n_neighbors=min(int(strength), clips),
        metric="cosine",
        weights=lambda distances: np.exp(-distances / TEMPERATURE),
        algorithm="brute",
    )


@dataclass(frozen=True)
class Classifier:
    """How a protocol classifies."""

    make: Callable[[float, int, int], Any]  # strength, training rows, seed → unfitted classifier
    strengths: Sequence[float]  # candidates, weakest first
    parameter: str  # what a strength is called
    averages_first: bool = False  # one averaged feature an example instead of its clips


CLASSIFIERS = {
    "linear": Classifier(linear, (0.003, 0.03, 0.3, 3.0), "C"),
    # Public ESC-50 protocols search C by decades (CrissCross: 1e-5 to 1 on unnormalised features);
    # features of length one need larger ones.
    "svm": Classifier(svm, (0.01, 0.1, 1.0, 10.0, 100.0), "C"),
    "knn": Classifier(neighbours, (1, 5, 10, 20, 50), "k", averages_first=True),
}


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier after training."""

    classifier: Classifier
    model: Any  # of scikit-learn
    num_classes: int  # of all examples; training may have seen fewer
    chosen: dict[str, float]  # the strength, by its name

    def predict(
        self, features: ClipFeatures, examples: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `examples` that have features, int64 [n], and their scores, float64 [n, classes].

        Scores are decision values or shares of the votes, -inf for a class not trained on. At least
        one example must have features.
        """
        asked = features.of(examples)
        if self.classifier.averages_first:
            asked = asked.averaged()
        scores = np.full((len(asked.example), self.num_classes), -np.inf)
        if not hasattr(self.model, "decision_function"):
            found = self.model.predict_proba(asked.values)
        else:
            found = self.model.decision_function(asked.values)
            if found.ndim == 1:  # two classes
                found = np.stack([-found, found], axis=1)
        scores[:, self.model.classes_] = found
        return average(scores, asked.example)


def fit(
    classifier: Classifier,
    features: ClipFeatures,
    data: LabelledExamples,
    train: np.ndarray,
    seed: int,
) -> FittedClassifier:
    """Choose the strength on a part of the training examples, then train on all of them.

    With one source there is no part to choose on: the middle strength is taken. At least one of
    `train`, int64, labelled examples, must have features.
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

    sources = data.sources[train]
    if len(np.unique(sources)) < 2:
        return trained(classifier.strengths[len(classifier.strengths) // 2], train)
    splitter = GroupShuffleSplit(n_splits=1, test_size=VALIDATION, random_state=seed)
    inner, validation = next(splitter.split(train, groups=sources))
    right = []
    for strength in classifier.strengths:
        examples, scores = trained(strength, train[inner]).predict(features, train[validation])
        right.append(np.mean(scores.argmax(axis=1) == data.labels[examples]))
    return trained(classifier.strengths[int(np.argmax(right))], train)
