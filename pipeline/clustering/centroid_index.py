"""The centroids as a faiss index: what the ClusterIndex actor answers queries from."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from pipeline.clustering.halves import widen
from pipeline.clustering.nearest import Centroids
from pipeline.clustering.screens import UNIT, Vectors
from pipeline.errors import UserError

_CANDIDATES = 4  # neighbours asked of faiss; more than two within the error bound are rare


def load_faiss() -> ModuleType:
    """
    Raises:
        UserError: neither faiss-cpu nor faiss-gpu is installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "faiss is missing: install exactly one of the extras, `pip install 'xdc-ray[cpu]'` or "
            "`pip install 'xdc-ray[gpu]'`"
        ) from error
    return faiss


class CentroidIndex:
    """Nearest centroids by faiss, on a GPU where faiss has one; labels as defined in nearest.py.

    The score x·c - h is an inner product of [x, 1] and [c, -h]. faiss computes it in float32; rows
    whose best neighbours lie within its error bound are settled by the exact comparison.
    """

    def __init__(self, centroids: Centroids):
        faiss = load_faiss()
        self.centroids = centroids
        shifted = centroids.shifted.astype(np.float32)
        rows = np.column_stack([shifted, -centroids.offset.astype(np.float32)])
        self.index = faiss.IndexFlatIP(rows.shape[1])
        if getattr(faiss, "get_num_gpus", lambda: 0)():
            self.index = faiss.index_cpu_to_all_gpus(self.index)
        self.index.add(np.ascontiguousarray(rows))
        terms = rows.shape[1] + 4
        gamma = terms * UNIT / (1 - terms * UNIT)
        self.per_norm = (gamma + 8 * UNIT) * centroids.longest + centroids.rounding(shifted)
        self.constant = (gamma + 8 * UNIT) * float(np.abs(centroids.offset).max()) + 1e-30

    def __call__(self, vectors: Vectors) -> np.ndarray:
        """Labels int32[n] of rows float16[n, d]."""
        x = np.column_stack([widen(vectors.x), np.ones(len(vectors.x), np.float32)])
        k = self.index.ntotal
        scores, found = self.index.search(np.ascontiguousarray(x), min(_CANDIDATES, k))
        margin = 2 * (self.per_norm * vectors.norms + self.constant)
        near = scores >= scores[:, :1] - margin[:, None]
        rows = np.flatnonzero(near.sum(axis=1) > 1)
        candidates = np.zeros((len(rows), k), bool)
        for column in range(found.shape[1]):
            candidates[np.arange(len(rows)), found[rows, column]] |= near[rows, column]
        # Where even the last neighbour is too near to tell, further ones may be as well.
        candidates[near[rows].all(axis=1)] = True
        return self.centroids.decide(vectors.x, found[:, 0].copy(), rows, candidates)
