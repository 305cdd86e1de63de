"""Figures of a protocol: on one split, and their mean and spread over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from pipeline.clustering import measures
from pipeline.errors import UserError
from pipeline.evaluation.classifiers import CLASSIFIERS, ClipFeatures, FittedClassifier, fit
from pipeline.evaluation.splits import LabelledExamples, Split

RECALLS = (1, 5, 10, 20, 50)
_RESTARTS = 10  # of k-means
FROZEN = (*CLASSIFIERS, "retrieval", "clusters")


@dataclass(frozen=True)
class Scored:
    """How a protocol did on the test examples."""

    examples: np.ndarray  # int64 [n], those that have features
    right: np.ndarray  # float64 [n], 1 where the answer is right: the first figure is their mean
    figures: dict[str, float]  # by name, each in [0, 1]
    chosen: dict[str, float]  # hyperparameters, by name


def evaluate_features(
    protocol: str,
    features: ClipFeatures,
    data: LabelledExamples,
    splits: Mapping[str, Split],
    seed: int,
) -> dict[str, Any]:
    """One protocol of `FROZEN` on one kind of features, over all splits: see `summary`.

    Splits with the same training side share a classifier.

    Raises:
        UserError: no example of a side has features.
    """
    if protocol == "clusters":
        # The splits are sides of the same examples, which are clustered once.
        sides = [side for split in splits.values() for side in (split.train, split.test)]
        everything = np.intersect1d(np.concatenate(sides), features.example)
        if not len(everything):
            raise UserError("no example has features: the rejects say why")
        return {"mean": cluster_measures(features, data.labels, everything, seed), "by_split": {}}
    found = {}
    fitted: dict[bytes, FittedClassifier] = {}
    for name, split in splits.items():
        trained = np.intersect1d(split.train, features.example)
        tested = np.intersect1d(split.test, features.example)
        for side, examples in (("training", trained), ("test", tested)):
            if not len(examples):
                raise UserError(f"no {side} example has features: the rejects say why")
        if protocol == "retrieval":
            asked, hits = recalls(features, data.labels, split)
            means = {f"recall@{k}": float(hits[:, i].mean()) for i, k in enumerate(RECALLS)}
            scored = Scored(asked, hits[:, 0].astype(float), means, {})
        else:
            key = trained.tobytes()
            if key not in fitted:
                fitted[key] = fit(CLASSIFIERS[protocol], features, data, trained, seed)
            asked, scores = fitted[key].predict(features, tested)
            scored = Scored(asked, *accuracies(scores, data.labels[asked]), fitted[key].chosen)
        found[name] = split_figures(data, split, trained, scored, seed)
    return summary(found)


def split_figures(
    data: LabelledExamples, split: Split, trained: np.ndarray, scored: Scored, seed: int
) -> dict[str, Any]:
    """One split's figures; `trained`, int64, are the training examples that have features.

    Returns:
        ``figures`` and ``chosen`` of `scored`; ``interval``: 95% bootstrap interval of the first
        figure, over the test sources; ``chance``: accuracy of always naming the commonest training
        class; ``train``, ``test``: examples that have features; ``without_features``: all others.
    """
    tested = data.labels[scored.examples]
    commonest = np.bincount(data.labels[trained]).argmax()
    listed, there = len(split.train) + len(split.test), len(trained) + len(tested)
    return {
        "figures": scored.figures,
        "interval": bootstrap_interval(scored.right, data.sources[scored.examples], seed),
        "chance": float((tested == commonest).mean()),
        "chosen": scored.chosen,
        "train": len(trained),
        "test": len(tested),
        "without_features": listed - there,
    }


def summary(by_split: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures ``by_split``, their ``mean`` and, of several splits, standard deviation ``std``."""
    figures = [split["figures"] for split in by_split.values()]
    columns = {name: [found[name] for found in figures] for name in figures[0]}
    row: dict[str, Any] = {
        "by_split": {**by_split},
        "mean": {name: float(np.mean(values)) for name, values in columns.items()},
    }
    if len(figures) > 1:
        row["std"] = {name: float(np.std(values, ddof=1)) for name, values in columns.items()}
    return row


def accuracies(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Right answers, float64 [n], and accuracies of `scores`, float64 [n, classes].

    These are accuracy, its mean over classes and, with more than five classes, top-5 accuracy.
    """
    right = (scores.argmax(axis=1) == labels).astype(float)
    _, place = np.unique(labels, return_inverse=True)
    per_class = np.bincount(place, right) / np.bincount(place)
    figures = {"accuracy": float(right.mean()), "class_accuracy": float(per_class.mean())}
    if scores.shape[1] > 5:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        figures["top5"] = float((best == labels[:, None]).any(axis=1).mean())
    return right, figures


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """95% interval of the mean of `values`, float64 [n], by the bootstrap over `groups`, int64 [n].

    Examples of one source are not independent, so they are drawn together.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def recalls(
    features: ClipFeatures, labels: np.ndarray, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Test examples, int64 [n], and whether their nearest hold their class, bool [n, len(RECALLS)].

    As in SeLaVi: features of length one for each clip, averaged over an example's clips; the
    training examples are the gallery, nearest by Euclidean distance.
    """
    averaged = features.averaged()
    gallery, asked = averaged.of(split.train), averaged.of(split.test)
    deepest = min(max(RECALLS), len(gallery.example))
    search = NearestNeighbors(n_neighbors=deepest, algorithm="brute").fit(gallery.values)
    near = search.kneighbors(asked.values, return_distance=False)
    same = labels[gallery.example][near] == labels[asked.example][:, None]
    return asked.example, np.stack([same[:, :k].any(axis=1) for k in RECALLS], axis=1)


def cluster_measures(
    features: ClipFeatures, labels: np.ndarray, examples: np.ndarray, seed: int
) -> dict[str, float]:
    """Agreement of `labels` with k-means of the averaged features, as many clusters as classes."""
    averaged = features.averaged().of(examples)
    classes = labels[averaged.example]
    k = min(len(np.unique(classes)), len(classes))
    means = KMeans(n_clusters=k, n_init=_RESTARTS, random_state=seed)
    return agreement_with_labels(means.fit_predict(averaged.values).astype(np.int64), classes)


def agreement_with_labels(assigned: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Every measure of clusters against labels, int64 [n] each, -1 is none."""
    return {
        "nmi": measures.normalized_mutual_information(classes, assigned),
        "ami": measures.adjusted_mutual_information(classes, assigned),
        "ari": measures.adjusted_rand_index(classes, assigned),
        "purity": measures.purity(assigned, classes),
        "hungarian_accuracy": measures.hungarian_accuracy(assigned, classes),
    }
