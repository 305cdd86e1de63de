"""No cluster stays empty: faiss's splitting while iterating, forced moves at the very end."""

from __future__ import annotations

import numpy as np

# faiss, Clustering.cpp: symmetric perturbation of the two copies, alternating over dimensions.
EPSILON = 1.0 / 1024.0


def split(
    centroids: np.ndarray, counts: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Give every empty cluster half of a large one.

    As faiss does: a donor is drawn in proportion to its size (less one), both get the donor's
    centroid, scaled by 1 ± 1/1024 on alternating dimensions, and share its count.

    Args:
        centroids: float32[k, d].
        counts: int64[k], their sizes.
        random: a source that is fixed for this iteration.

    Returns:
        centroids float32[k, d] and how many were empty.
    """
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return centroids, 0
    centroids, counts = centroids.copy(), counts.copy()
    up = np.where(np.arange(centroids.shape[1]) % 2 == 0, 1 + EPSILON, 1 - EPSILON)
    down = 2.0 - up
    for one in empty:
        weights = np.cumsum(np.maximum(counts - 1, 0))
        if weights[-1] == 0:  # every other cluster has a single row: nothing can be split
            break
        donor = int(np.searchsorted(weights, random.random() * weights[-1], side="right"))
        centroids[one] = centroids[donor] * up
        centroids[donor] = centroids[donor] * down
        counts[one] = counts[donor] // 2
        counts[donor] -= counts[one]
    return centroids, len(empty)


def farthest(labels: np.ndarray, distances: np.ndarray, counts: np.ndarray) -> list[int]:
    """Rows to give to the empty clusters: the farthest from their centroids, never a last one.

    Args:
        labels: int32[n], -1 for none.
        distances: float32[n].
        counts: int64[k].

    Returns:
        one row for each empty cluster, in order; fewer only if there are fewer rows than clusters.
    """
    wanted = int((counts == 0).sum())
    left = counts.copy()
    rows: list[int] = []
    present = np.flatnonzero(labels >= 0)
    order = present[np.argsort(-distances[present], kind="stable")]
    for row in order.tolist():
        if len(rows) == wanted:
            break
        if left[labels[row]] > 1:
            left[labels[row]] -= 1
            rows.append(row)
    return rows
