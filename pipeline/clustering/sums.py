"""Exact sums of vectors per cluster, kept up to date by moving only the rows that changed."""

from __future__ import annotations

import threading

import numpy as np
import scipy.sparse

from pipeline.clustering.halves import widen


class ClusterSums:
    """Sums and sizes of the clusters within a shard.

    Float64 sums of float16 numbers in [-1, 1] are exact (blocks.py), so taking a row out of one
    cluster and putting it into another leaves the very bits that summing afresh would, and
    threads may add their blocks in any order.

    Args:
        k: clusters.
        dim: width of a vector.
        rows: vectors of the shard.
    """

    def __init__(self, k: int, dim: int, rows: int):
        self.k = k
        self.sums = np.zeros((k, dim))
        self.labels = np.full(rows, -1, np.int32)
        self.counts = np.zeros(k, np.int64)
        self._lock = threading.Lock()

    def update(self, start: int, block: np.ndarray, labels: np.ndarray) -> None:
        """Give the rows [start, start + len(block)) their new labels int32[n]."""
        old = self.labels[start : start + len(block)]
        moved = np.flatnonzero(old != labels)
        if not len(moved):
            return
        everything = len(moved) == len(block)
        x = widen(block if everything else block[moved]).astype(np.float64)
        was, now = old[moved], labels[moved]
        known = np.flatnonzero(was >= 0)
        joined = np.concatenate([now, was[known]])
        # Only the clusters that change: with many clusters most do not.
        clusters, place = np.unique(joined, return_inverse=True)
        signs = np.ones(len(joined))
        signs[len(moved) :] = -1
        columns = np.concatenate([np.arange(len(moved)), known])
        shape = (len(clusters), len(moved))
        # A sparse product touches each row once, in compiled code; np.add.at is 20 times slower.
        change = scipy.sparse.csr_array((signs, (place, columns)), shape) @ x
        with self._lock:
            self.sums[clusters] += change
            self.counts[clusters] += np.bincount(place, signs, len(clusters)).astype(np.int64)
        old[:] = labels
