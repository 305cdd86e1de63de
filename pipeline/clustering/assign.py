"""Which centroid is nearest: a faiss index over the centroids, searched one block at a time.

A block is always searched whole, by one thread of faiss and of its BLAS. So its labels depend on
its rows, the centroids, the bias and the kind of processor alone, not on shards or threads. Other
kinds of processor may give a row between two centroids the other one.

Rows are compared in float32, as faiss compares them. A row that is equally near to several
centroids gets the one faiss finds first: the lowest of equal float32 distances. A row of zeros is
a row like any other: it gets the shortest centroid.

Bounds that spare rows a comparison (Hamerly, Yinyang) have no place here. They are built up over
the iterations and die with a shard. The rest of a block, searched without the spared rows, is a
product of another shape, whose last bits may differ. So labels would depend on deaths.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.errors import UserError

_PIECE = 1 << 16  # numbers widened at once: the passes stay in the second-level cache


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


def prepare_process() -> None:
    """One thread of BLAS, numpy's and faiss's, for every thread of this process from now on."""
    faiss = load_faiss()  # brings a BLAS of its own, which has to be there to be limited
    threadpool_limits(1, "blas")
    # Scores of fewer rows at once stay in the cache: 7% faster at 128 numbers and k = 1024.
    faiss.cvar.distance_compute_blas_query_bs = 1024


def widen(x: np.ndarray, more: int = 0) -> np.ndarray:
    """Finite float16[n, d] to float32[n, d + more]: the same numbers, then ``more`` zeros a row.

    Five times as fast as numpy's conversion (one core, 4096 x 512: 0.5 ms). The bits are
    sign-extended and moved to where float32 has them. The smaller exponent range is put right by
    one multiplication, which also makes subnormal numbers normal. Infinities and NaN would come
    out as numbers.
    """
    n, d = x.shape
    out = np.empty((n, d + more), np.float32)
    out[:, d:] = 0
    numbers, source = out[:, :d], x.view(np.int16)
    rows = max(1, _PIECE // max(d, 1))
    for at in range(0, n, rows):
        piece = numbers[at : at + rows]
        bits = piece.view(np.int32)
        bits[:] = source[at : at + rows]
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, np.int32(-0x70000001), out=bits)  # copies of the sign
        np.multiply(piece, np.float32(2.0**112), out=piece)
    return out


def offsets(centroids: np.ndarray, bias: np.ndarray | None, spherical: bool) -> np.ndarray:
    """float64[k], what is taken from x·c so that the highest score is the label.

    |c|²/2 less the bias: the nearest centroid, made nearer by the bias. Spherical: less the bias
    alone.

    Args:
        centroids: float32[k, d].
        bias: float64[k] of balance; None: zeros.
        spherical: whether scores are inner products.
    """
    taken = np.zeros(len(centroids))
    if not spherical:
        taken = 0.5 * np.square(centroids.astype(np.float64)).sum(axis=1)
    return taken if bias is None else taken - bias


def raised(centroids: np.ndarray, bias: np.ndarray | None, spherical: bool) -> np.ndarray:
    """float32[k, d or d + 1]: centroids whose plain squared distances order as the scores do.

    |x - c|² = |x|² - 2 (x·c - |c|²/2). Where something else than |c|²/2 is to be taken, one more
    coordinate, in which rows are 0, adds the difference to the squared distance. Without bias
    there is none, and labels are those of faiss's own k-means.
    """
    more = 2 * (offsets(centroids, bias, spherical) - offsets(centroids, None, False))
    more -= more.min()
    rows = [centroids] if not more.any() else [centroids, np.sqrt(more)[:, None]]
    return np.ascontiguousarray(np.concatenate(rows, axis=1), np.float32)


class CentroidIndex:
    """faiss's flat index over the centroids.

    Args:
        centroids, bias, spherical: see `offsets`.
        gpu: resources of the GPU that searches (`resident.GpuBlocks`); None: the processor.
    """

    def __init__(
        self,
        centroids: np.ndarray,
        bias: np.ndarray | None = None,
        spherical: bool = False,
        gpu: Any = None,
    ):
        self.faiss = load_faiss()
        rows = raised(centroids, bias, spherical)
        self.more = rows.shape[1] - centroids.shape[1]
        self.index = self.faiss.IndexFlatL2(rows.shape[1])
        if gpu is not None:
            self.index = self.faiss.GpuIndexFlatL2(gpu, rows.shape[1])
        self.index.add(rows)

    def rows(self, block: np.ndarray) -> np.ndarray:
        """float16[n, d] as faiss takes it: the same numbers in float32, then zeros."""
        return widen(block, self.more)

    def nearest(self, rows: np.ndarray) -> np.ndarray:
        """Labels int32[n] of a whole block, as `rows` gives it."""
        # Of the calling thread alone, so every thread of a shard has to say it.
        self.faiss.omp_set_num_threads(1)
        _, found = self.index.search(rows, 1)
        return found[:, 0].astype(np.int32)

    def margin(self, rows: np.ndarray) -> np.ndarray:
        """float32[n]: the second smallest squared distance less the smallest; inf for k = 1."""
        self.faiss.omp_set_num_threads(1)
        found, _ = self.index.search(rows, 2)
        return np.where(found[:, 1] < np.finfo(np.float32).max, found[:, 1] - found[:, 0], np.inf)


def distances(x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances float32[n] of rows float16[n, d] to their own centroids, summed in float64."""
    difference = widen(x).astype(np.float64)
    difference -= centroids[labels]
    np.square(difference, out=difference)
    return np.sqrt(difference.sum(axis=1)).astype(np.float32)
