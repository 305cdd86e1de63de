"""Approximate scores of a block, fast, with a bound on their error (see nearest.py).

Measured on one core of an AMD EPYC (AVX-512 with bf16), 4096 x 256 rows against 256 centroids:
faiss 1.15 search 6.5 ms, float32 product 7.9 ms on torch's MKL and 5.9 ms on numpy's OpenBLAS,
bfloat16 product 2.6 to 3.0 ms. So numpy's product and argmax equal faiss's search, and bfloat16,
where the processor has it, beats both: about one row in ten then needs the exact comparison of two
or three centroids. `Screens` picks by the clock while it runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.clustering.halves import widen
from pipeline.clustering.nearest import Centroids

UNIT = 2.0**-24  # half an ulp of float32, relative
SCORES = 1 << 21  # scores held at once: they should stay in the shared cache
LEAST = np.float32(-1e30)  # below every score
# Below so many multiply-adds in a shard's whole run, importing torch costs more than it saves.
WORTH_TORCH = 1e11


@dataclass(frozen=True)
class Vectors:
    """Rows of a block with what the error bounds need to know about them.

    Attributes:
        x: float16[n, d].
        norms: float32[n], at least the lengths.
        roundings: float32[n], at least the lengths of ``x - bfloat16(x)``.
    """

    x: np.ndarray
    norms: np.ndarray
    roundings: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Vectors:
        wide = widen(x)
        # bfloat16 keeps the upper 16 bits, rounded to nearest, even on ties.
        bits = wide.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        lost = wide - rounded.view(np.float32)
        slack = np.float32(1 + 1e-4)  # the float32 sums of squares err by less
        return cls(
            x,
            np.sqrt(np.einsum("ij,ij->i", wide, wide)) * slack,
            np.sqrt(np.einsum("ij,ij->i", lost, lost)) * slack,
        )

    def __getitem__(self, rows: slice | np.ndarray) -> Vectors:
        return Vectors(self.x[rows], self.norms[rows], self.roundings[rows])


class Screen(Protocol):
    """Labels int32[n] of rows: every screen gives the same ones.

    Where asked, ``rivals`` float32[n] is filled with upper bounds of the scores of all centroids
    but the row's own, in the centroids' frame; infinite where there is none to be had.
    """

    def __call__(self, vectors: Vectors, rivals: np.ndarray | None = None) -> np.ndarray: ...


class SgemmScreen:
    """One float32 matrix product on numpy's BLAS: works everywhere, needs nothing."""

    def __init__(self, centroids: Centroids):
        self.centroids = centroids
        self.shifted = shifted = centroids.shifted.astype(np.float32)
        self.matrix = np.ascontiguousarray(shifted.T)
        self.offset = centroids.offset.astype(np.float32)
        # Any order of d products and sums in float32 errs by at most gamma * |x| |c| (Higham 2002,
        # section 3.1); then the offset's rounding, the subtraction's, and that of the threshold.
        terms = shifted.shape[1] + 4
        gamma = terms * UNIT / (1 - terms * UNIT)
        self.per_norm = (gamma + 8 * UNIT) * centroids.longest + centroids.rounding(shifted)
        self.constant = 8 * UNIT * float(np.abs(centroids.offset).max()) + 1e-30

    def __call__(self, vectors: Vectors, rivals: np.ndarray | None = None) -> np.ndarray:
        return in_parts(self._some, vectors, rivals, max(1, SCORES // len(self.offset)))

    def error(self, norms: np.ndarray) -> np.ndarray:
        """Bounds float32[n] of the errors of a row's scores."""
        return (self.per_norm * norms + self.constant).astype(np.float32)

    def _some(self, vectors: Vectors, rivals: np.ndarray | None) -> np.ndarray:
        x, norms = vectors.x, vectors.norms
        score = widen(x) @ self.matrix
        score -= self.offset
        best = score.argmax(axis=1)
        top = score[np.arange(len(score)), best]
        threshold = top - 2.0 * (self.per_norm * norms + self.constant)
        threshold = np.nextafter(threshold.astype(np.float32), np.float32(-np.inf))
        candidates = score >= threshold[:, None]
        counts = row_counts(candidates)
        counts = exact_zero_rows(self.centroids, norms, best, counts)
        several = np.flatnonzero(counts > 1)
        if rivals is not None:
            score[np.arange(len(score)), best] = LEAST
            # Any of the candidates may turn out to be the row's own.
            second = np.where(counts > 1, top, score.max(axis=1))
            rivals[:] = second + 2 * self.error(norms)
            unknown(self.centroids, norms, rivals)
        return self.centroids.decide(x, best, several, candidates[several])


def in_parts(
    work: Callable[[Vectors, np.ndarray | None], np.ndarray],
    vectors: Vectors,
    rivals: np.ndarray | None,
    rows: int,
) -> np.ndarray:
    """Labels int32[n], from ``rows`` rows at a time."""
    cuts = [slice(at, at + rows) for at in range(0, len(vectors.x), rows)]
    parts = [work(vectors[cut], None if rivals is None else rivals[cut]) for cut in cuts]
    return np.concatenate([np.zeros(0, np.int32), *parts])


def unknown(centroids: Centroids, norms: np.ndarray, rivals: np.ndarray) -> None:
    """Infinite bounds for rows of zeros, and for all where a column stands for equal centroids."""
    rivals[norms == 0.0] = np.inf
    if centroids.repeated:
        rivals[:] = np.inf


def row_counts(candidates: np.ndarray) -> np.ndarray:
    """Number of candidates in every row of bool[n, k], up to 65535."""
    return candidates.view(np.uint8).sum(axis=1, dtype=np.uint16)


def exact_zero_rows(
    centroids: Centroids, norms: np.ndarray, best: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Rows of zeros score -h exactly: settle them, for every centroid may be a candidate."""
    zero = norms == 0.0
    if zero.any():
        best[zero] = centroids.zero_row
        counts = np.where(zero, 1, counts)
    return counts


class Screens:
    """The fastest screen for the shapes at hand, found by timing them on real blocks.

    Args:
        device: ``cpu``, or ``cuda`` for shards that hold a GPU.
        work: multiply-adds of the whole run, to tell whether torch is worth importing.
        in_place: whether rows keep their address from pass to pass, so that a GPU may hold them.
    """

    def __init__(self, device: str = "cpu", work: float = 0.0, in_place: bool = False):
        self.device = device
        self.resident: dict[int, Any] | None = {} if in_place else None
        self.fast = device != "cpu" or work > WORTH_TORCH or "torch" in sys.modules
        if self.fast:
            import torch

            torch.set_num_threads(1)  # the shard's own threads are what uses the cores
        self.cost: dict[str, float] = {}
        self.passes = 0

    def prepare(self, centroids: Centroids, sample: Vectors) -> Screen:
        """A screen for one pass; now and then the contenders are timed on ``sample``."""
        plain = SgemmScreen(centroids)
        if not self.fast:
            return plain
        from pipeline.clustering import tensor_screens

        if self.device != "cpu":
            return tensor_screens.CudaScreen(centroids, self.device, self.resident)
        half = tensor_screens.Bfloat16Screen(centroids, plain)
        if not len(sample.x):
            return plain
        contenders: dict[str, Screen] = {"sgemm": plain, "bfloat16": half}
        due = self.passes < 2 or self.passes % 10 == 0
        self.passes += 1
        for name, screen in contenders.items() if due else ():
            began = time.perf_counter()
            screen(sample)
            took = time.perf_counter() - began
            # The first call pays for set-up, and other load comes and goes.
            self.cost[name] = min(took, self.cost.get(name, took) * 1.2)
        return contenders[min(self.cost, key=self.cost.__getitem__)]
