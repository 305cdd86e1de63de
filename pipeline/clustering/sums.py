"""Exact sums of vectors per cluster, kept up to date by moving only the rows that changed."""

from __future__ import annotations

import threading

import numpy as np
import scipy.sparse

from pipeline.clustering.assign import CentroidIndex


class ClusterSums:
    """Sums and sizes of the clusters within a shard.

    Float64 sums of float16 numbers in [-1, 1] are exact (blocks.py), so taking a row out of one
    cluster and putting it into another leaves the very bits that summing afresh would, and
    threads may add their blocks in any order.

    Args:
        rows: vectors of the shard.
        dim: width of a vector.

    Attributes:
        labels: int32[rows], -1 before the first pass.
    """

    def __init__(self, rows: int, dim: int):
        self.labels = np.full(rows, -1, np.int32)
        self._sums = np.zeros((0, dim))
        self._counts = np.zeros(0, np.int64)
        self._lock = threading.Lock()

    def begin(self, centroids: np.ndarray, bias: np.ndarray | None, spherical: bool) -> None:
        """A pass with other centroids; with another number of them, sums start at zero."""
        self._index = CentroidIndex(centroids, bias, spherical)
        if centroids.shape != self._sums.shape:
            self.labels[:] = -1
            self._sums = np.zeros(centroids.shape)
            self._counts = np.zeros(len(centroids), np.int64)

    def add(self, rows: slice, block: np.ndarray) -> None:
        """Label a block float16[n, d] of the shard, and keep the sums up to date."""
        wide = self._index.rows(block)
        self.update(rows, wide[:, : block.shape[1]], self._index.nearest(wide))

    def update(self, rows: slice, block: np.ndarray, labels: np.ndarray) -> None:
        """Give rows of the shard, [n, d] as float16 or wider, their new labels int32[n]."""
        old = self.labels[rows]
        moved = np.flatnonzero(old != labels)
        if not len(moved):
            return
        # Every row joins a cluster. All leave one, but for the first time: then all are new.
        joined = labels[moved, None]
        if old[0] >= 0:
            joined = np.stack([labels[moved], old[moved]], axis=1)
        signs = np.tile([1.0, -1.0][: joined.shape[1]], len(moved))
        # Only the clusters that change: with many, most do not.
        clusters, place = np.unique(joined, return_inverse=True)
        ends = np.arange(0, joined.size + 1, joined.shape[1])
        # A sparse product adds rows in compiled code: 1.2 ms for 4096 x 512, against 18 ms of
        # np.add.reduceat and more of np.add.at.
        shape = (len(clusters), len(moved))
        some = block if len(moved) == len(block) else block[moved]
        matrix = scipy.sparse.csc_array((signs, place.ravel(), ends), shape)
        change = matrix @ some.astype(np.float64)
        with self._lock:
            self._sums[clusters] += change
            self._counts += np.bincount(joined.ravel(), signs, len(self._counts)).astype(np.int64)
        old[:] = labels

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the sums float64[k, d] and the counts int64[k]."""
        return self._sums.copy(), self._counts.copy()
