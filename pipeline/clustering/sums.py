"""Exact sums of vectors per cluster, kept up to date by moving only the rows that changed."""

from __future__ import annotations

import numpy as np
import scipy.sparse


class ClusterSums:
    """Sums and sizes of the clusters within a shard.

    Float64 sums of float16 numbers in [-1, 1] are exact (blocks.py), so taking a row out of one
    cluster and putting it into another leaves the very bits that summing afresh would.

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

    def update(self, start: int, block: np.ndarray, labels: np.ndarray) -> None:
        """Give the rows [start, start + len(block)) their new labels int32[n]."""
        old = self.labels[start : start + len(block)]
        moved = np.flatnonzero(old != labels)
        if not len(moved):
            return
        x = block[moved].astype(np.float64)
        was, now = old[moved], labels[moved]
        number = np.arange(len(moved))
        known = was >= 0
        values = np.concatenate([np.ones(len(moved)), -np.ones(int(known.sum()))])
        place = (np.concatenate([now, was[known]]), np.concatenate([number, number[known]]))
        # A sparse product touches each row once, in compiled code; np.add.at is 20 times slower.
        self.sums += scipy.sparse.csr_array((values, place), (self.k, len(moved))) @ x
        self.counts += np.bincount(now, minlength=self.k)
        self.counts -= np.bincount(was[known], minlength=self.k)
        self.labels[start : start + len(block)] = labels
