"""What clusters hold: their most frequent labels, and which labels they confuse."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.clustering import measures

_CLUSTERS, _PAIRS = 8, 12  # examples
_LABELS = 3  # of each cluster


def contents(
    assigned: np.ndarray, labels: np.ndarray, names: list[str], *, examples: bool = True
) -> dict[str, Any]:
    """
    Args:
        assigned: int32 [N], clusters, -1 for none; labels: int64 [N], -1 for none.
        names: of the labels.
        examples: whether to add ``clusters`` and ``confused``.

    Returns:
        ``purity`` and ``nmi``; ``clusters``: the purest ones with their most frequent labels and
        the shares of these; ``confused``: pairs of labels by the chance that a clip of one and a
        clip of the other lie in the same cluster, relative to two clips of the same label.
    """
    known = (assigned >= 0) & (labels >= 0)
    found: dict[str, Any] = {
        "purity": measures.purity(assigned[known], labels[known]),
        "nmi": measures.normalized_mutual_information(labels[known], assigned[known]),
    }
    if not examples:
        return found
    table = np.zeros((assigned.max() + 1, len(names)))
    np.add.at(table, (assigned[known], labels[known]), 1)
    return found | {"clusters": _purest(table, names), "confused": _confused(table, names)}


def _purest(table: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """
    Args:
        table: [clusters, labels], numbers of clips.
    """
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    purest = np.argsort(-share.max(axis=1), kind="stable")[:_CLUSTERS]
    leading = np.argsort(-share, axis=1, kind="stable")[:, :_LABELS]
    shares = [{names[i]: round(share[c, i], 3) for i in leading[c]} for c in purest]
    return [{"clips": int(table[c].sum()), "labels": found} for c, found in zip(purest, shares)]


def _confused(table: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    spread = table / np.maximum(table.sum(axis=0), 1)  # of each label, over the clusters
    together = spread.T @ spread
    own = np.sqrt(np.diag(together))
    likeness = together / np.maximum(np.outer(own, own), 1e-12)
    pairs = np.argwhere(np.triu(np.ones_like(likeness), 1))
    closest = pairs[np.argsort(-likeness[tuple(pairs.T)], kind="stable")][:_PAIRS]
    return [
        {"labels": [names[a], names[b]], "likeness": round(float(likeness[a, b]), 3)}
        for a, b in closest
    ]
