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
        signs = np.ones(len(joined))
        signs[len(moved) :] = -1
        columns = np.concatenate([np.arange(len(moved)), known])
        # Rows in order of cluster, only the clusters that change: with many, most do not.
        order = np.argsort(joined, kind="stable")
        sizes = np.bincount(joined, minlength=self.k)
        clusters = np.flatnonzero(sizes)
        bounds = np.concatenate([[0], np.cumsum(sizes[clusters])])
        entries = (signs[order], columns[order], bounds)
        # A sparse product touches each row once, in compiled code: 3 ms for 4096 x 512, against
        # 18 ms of np.add.reduceat and more of np.add.at.
        change = scipy.sparse.csr_array(entries, (len(clusters), len(moved))) @ x
        with self._lock:
            self.sums[clusters] += change
            self.counts += np.bincount(joined, signs, self.k).astype(np.int64)
        old[:] = labels
