"""No cluster stays empty: faiss's splitting while iterating, forced moves at the very end."""

from __future__ import annotations

import numpy as np

# faiss, Clustering.cpp: symmetric perturbation of the two copies, alternating over dimensions.
EPSILON = 1.0 / 1024.0


def split(
    centroids: np.ndarray, counts: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Give every empty cluster half of a large one: centroids, and how many were empty.

    As faiss does: a donor is drawn in proportion to its size (less one), both get the donor's
    centroid, scaled by 1 ± 1/1024 on alternating dimensions, and share its count.

    Args:
        centroids: float32[k, d].
        counts: int64[k], their sizes.
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


def farthest(labels: np.ndarray, distances: np.ndarray, wanted: int) -> np.ndarray:
    """Rows to give to empty clusters: the farthest from their centroids, never a cluster's last.

    Args:
        labels: int32[n], -1 for none.
        distances: float32[n].
        wanted: number of rows.

    Returns:
        int64[wanted], the farthest first; fewer only if there are fewer rows than clusters.
    """
    present = np.flatnonzero(labels >= 0)
    order = present[np.argsort(-distances[present], kind="stable")]
    _, nearest = np.unique(labels[order[::-1]], return_index=True)
    return np.delete(order, len(order) - 1 - nearest)[:wanted]
