"""Figures of a protocol: on one split, and their mean and spread over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.classifiers import CLASSIFIERS, ClipFeatures, classify
from pipeline.evaluation.examples import Examples
from pipeline.evaluation.probes import bootstrap_interval
from pipeline.evaluation.retrieval import RECALLS, cluster_measures, recalls

FROZEN = (*CLASSIFIERS, "retrieval", "clusters")


def judge(
    protocol: str,
    features: ClipFeatures,
    found: Examples,
    sides: dict[str, tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> dict[str, Any]:
    """One protocol on one kind of features, over all splits."""
    if protocol == "clusters":
        # The splits are sides of the same examples, which are clustered once.
        everything = np.unique(np.concatenate([np.concatenate(pair) for pair in sides.values()]))
        return {"mean": cluster_measures(features, found.labels, everything, seed), "by_split": {}}
    return summary(
        {
            name: _judge_split(protocol, features, found, train, test, seed)
            for name, (train, test) in sides.items()
        }
    )


def summary(by_split: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The mean of every figure over the splits and, of several, its standard deviation."""
    figures = [split["figures"] for split in by_split.values()]
    mean = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
    row: dict[str, Any] = {"by_split": by_split, "mean": mean}
    if len(figures) > 1:
        row["std"] = {
            name: float(np.std([f[name] for f in figures], ddof=1)) for name in figures[0]
        }
    return row


def _judge_split(
    protocol: str,
    features: ClipFeatures,
    found: Examples,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """``figures``, the 95% ``interval`` of the first one, what was ``chosen``, and counts."""
    there = [np.intersect1d(side, features.example) for side in (train, test)]
    for side, examples in zip(("training", "test"), there):
        if not len(examples):
            raise UserError(f"no {side} example has features: the rejects say why")
    labels = found.labels
    if protocol == "retrieval":
        asked, hits = recalls(features, labels, train, test)
        figures = {f"recall@{k}": float(hits[:, i].mean()) for i, k in enumerate(RECALLS)}
        right, chosen = hits[:, 0].astype(float), {}
    else:
        verdict = classify(
            CLASSIFIERS[protocol],
            features,
            labels,
            found.sources,
            train,
            test,
            len(found.classes),
            seed,
        )
        asked, chosen = verdict.examples, verdict.chosen
        right, figures = accuracies(verdict.scores, labels[asked])
    result = result_of(found, there[0], test, asked, right, figures, chosen, seed)
    result["without_features"] += len(train) - len(there[0])
    return result


def result_of(
    found: Examples,
    train: np.ndarray,
    test: np.ndarray,
    asked: np.ndarray,
    right: np.ndarray,
    figures: dict[str, float],
    chosen: dict[str, float],
    seed: int,
) -> dict[str, Any]:
    """A split's figures with their circumstances; `asked` are the test examples with features."""
    labels = found.labels
    return {
        "figures": figures,
        "interval": bootstrap_interval(right, found.sources[asked], seed),
        "chance": float((labels[asked] == np.bincount(labels[train]).argmax()).mean()),
        "chosen": chosen,
        "train": len(train),
        "test": len(asked),
        "without_features": len(test) - len(asked),
    }


def accuracies(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Right answers float64 [n]; accuracy, its mean over classes and, above five, the top five's.

    Args:
        scores: float64 [n, classes].
    """
    right = (scores.argmax(axis=1) == labels).astype(float)
    _, place = np.unique(labels, return_inverse=True)
    per_class = np.bincount(place, right) / np.bincount(place)
    figures = {"accuracy": float(right.mean()), "class_accuracy": float(per_class.mean())}
    if scores.shape[1] > 5:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        figures["top5"] = float((best == labels[:, None]).any(axis=1).mean())
    return right, figures
