"""Which cluster of one clustering is which of another of the same clips, and whose clips are new.

Cluster ids are drawn anew each time. A run's clusterings keep their own; what belongs together from
round to round is written beside them.
"""

from __future__ import annotations

import numpy as np


def matched(before: np.ndarray, now: np.ndarray, k: int) -> np.ndarray:
    """int32 [k]: of each cluster the one before that it shares most clips with; -1: none is left.

    Pairs are taken by how many clips they share, most first, each cluster once.

    Args:
        before, now: int32 labels, -1: none; of the first clips that both have.
        k: clusters of `now`.
    """
    n = min(len(before), len(now))
    before, now = before[:n].astype(np.int64), now[:n].astype(np.int64)
    both = (before >= 0) & (now >= 0)
    width = int(before.max(initial=0)) + 1
    pairs, shared = np.unique(now[both] * width + before[both], return_counts=True)
    found, taken = np.full(k, -1, np.int32), np.zeros(width, bool)
    for pair in pairs[np.lexsort((pairs, -shared))].tolist():
        mine, theirs = divmod(pair, width)
        if found[mine] < 0 and not taken[theirs]:
            found[mine], taken[theirs] = theirs, True
    return found


def share_of_new(labels: np.ndarray, first_new: int, k: int) -> np.ndarray:
    """float64 [k]: share of each cluster's clips whose index is at least `first_new`; empty: 0."""
    known = labels >= 0
    sizes = np.bincount(labels[known], minlength=k)
    new = np.bincount(labels[first_new:][known[first_new:]], minlength=k)
    return new / np.maximum(sizes, 1)
