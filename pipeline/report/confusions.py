"""Which labels a clustering tells, and which of those it confuses."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.report.crossings import counts

_PAIRS = 12
_LEAST = 5  # clips of a label
_TOLD = 2.0  # times chance
_LEAST_PAIRS = 3  # of clips in one cluster: fewer may be luck


def confusions(clusters: np.ndarray, classes: np.ndarray, names: list[str]) -> dict[str, Any]:
    """What the page says of labels.

    A clustering tells a label if two clips of it share a cluster at least twice as often as any two
    clips do. How far it confuses two such labels is how often a clip of the one and a clip of the
    other share a cluster, over the geometric mean of the same share within either label. 1: it does
    not tell them apart at all.

    Args:
        clusters: int32 [n], -1: none. classes: int32 [n], into `names`, -1: no label.

    Returns:
        ``pairs``: both names and that share, the most confused first; ``untold``: names of labels
        that it does not tell.
    """
    if not names:
        return {"pairs": [], "untold": []}
    table = counts(classes, clusters, len(names), int(clusters.max(initial=0)) + 1).astype(float)
    clips = table.sum(axis=1)
    frequent = np.flatnonzero(clips >= _LEAST)
    pairs = (np.square(table).sum(axis=1) - clips) / 2  # of clips of one label and cluster
    own = pairs[frequent] / (clips[frequent] * (clips[frequent] - 1) / 2)
    chance = np.square(table.sum(axis=0) / max(table.sum(), 1)).sum()
    is_told = (own >= _TOLD * chance) & (pairs[frequent] >= _LEAST_PAIRS)
    told, own = frequent[is_told], own[is_told]
    shares = table[told] / clips[told, None]
    first, second = np.triu_indices(len(told), 1)
    share = np.minimum(((shares @ shares.T) / np.sqrt(np.outer(own, own)))[first, second], 1)
    most = np.argsort(-share, kind="stable")[:_PAIRS].tolist()
    return {
        "pairs": [
            [names[told[first[n]]], names[told[second[n]]], float(share[n])]
            for n in most
            if share[n]
        ],
        "untold": [names[n] for n in frequent[~is_told]],
    }
