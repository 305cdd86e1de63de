"""Linear probes on frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # candidates for logistic regression's C


@dataclass(frozen=True)
class ProbeResult:
    """
    Attributes:
        accuracy: share of right answers on the test clips, in [0, 1].
        low, high: 95% bootstrap interval over test files.
        chance: accuracy of always naming the commonest class of the training clips.
        strength: the C that was chosen on a part of the training clips.
        train_clips, test_clips: how many.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    strength: float
    train_clips: int
    test_clips: int


def linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    files: np.ndarray,
    is_train: np.ndarray,
    is_test: np.ndarray,
    seed: int = 0,
) -> ProbeResult:
    """`linear_probes` with one side to test on."""
    return linear_probes(features, labels, files, is_train, {"test": is_test}, seed)["test"]


def linear_probes(
    features: np.ndarray,
    labels: np.ndarray,
    files: np.ndarray,
    is_train: np.ndarray,
    tests: Mapping[str, np.ndarray],
    seed: int = 0,
) -> dict[str, ProbeResult]:
    """Logistic regression on standardised features; its C is chosen inside the training clips.

    Args:
        features: float [n, d].
        labels: int [n].
        files: int [n], the file of each clip: a file is never on both sides of a split.
        is_train: bool [n]; tests: name → bool [n].

    Raises:
        ValueError: a file is both in train and in test, or one of them is empty.
    """
    train = np.flatnonzero(is_train)
    for name, is_test in tests.items():
        if not len(train) or not is_test.any():
            raise ValueError(
                f"{len(train)} training and {is_test.sum()} {name} clips: both are needed"
            )
        shared = np.intersect1d(files[train], files[is_test])
        if len(shared):
            raise ValueError(f"{len(shared)} files have clips in both train and {name}")
    features = features.astype(np.float32)
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.2, random_state=seed)
    inner, validation = next(splitter.split(train, groups=files[train]))
    scores = [
        _fit(features, labels, train[inner], c).score(
            features[train[validation]], labels[train[validation]]
        )
        for c in STRENGTHS
    ]
    strength = STRENGTHS[int(np.argmax(scores))]
    probe = _fit(features, labels, train, strength)
    commonest = np.bincount(labels[train]).argmax()
    found = {}
    for name, is_test in tests.items():
        right = (probe.predict(features[is_test]) == labels[is_test]).astype(float)
        low, high = bootstrap_interval(right, files[is_test], seed)
        chance = float((labels[is_test] == commonest).mean())
        counts = len(train), len(right)
        found[name] = ProbeResult(float(right.mean()), low, high, chance, strength, *counts)
    return found


def _fit(features: np.ndarray, labels: np.ndarray, rows: np.ndarray, strength: float):  # type: ignore[no-untyped-def]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features[rows], labels[rows])


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """95% interval of the mean of `values`, resampling whole groups (clips of one file)."""
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
