"""Which labels a clustering confuses: those that share clusters more often than others do."""

from __future__ import annotations

import numpy as np

from pipeline.report.crossings import counts

_PAIRS = 12
_LEAST = 5  # clips of a label


def confusions(clusters: np.ndarray, classes: np.ndarray, names: list[str]) -> list[list[object]]:
    """Pairs of labels, the most confused first: both names, and how often, against one's own.

    The share is of clips of two labels that lie in one cluster, over the geometric mean of the same
    share within either label. 1: the clusters do not tell them apart at all.

    Args:
        clusters: int32 [n], -1: none. classes: int32 [n], into `names`, -1: no label.
    """
    if not names:
        return []
    table = counts(classes, clusters, len(names), int(clusters.max(initial=0)) + 1).astype(float)
    clips = table.sum(axis=1)
    known = np.flatnonzero(clips >= _LEAST)
    shares = table[known] / clips[known, None]
    together = shares @ shares.T
    # Two different clips of one label.
    own = (np.square(table[known]).sum(axis=1) - clips[known]) / (clips[known] * (clips[known] - 1))
    own = np.maximum(own, 1e-9)
    first, second = np.triu_indices(len(known), 1)
    share = np.minimum((together / np.sqrt(np.outer(own, own)))[first, second], 1)
    most = np.argsort(-share, kind="stable")[:_PAIRS].tolist()
    return [
        [names[known[first[n]]], names[known[second[n]]], float(share[n])] for n in most if share[n]
    ]
