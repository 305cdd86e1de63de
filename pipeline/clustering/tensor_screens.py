"""Screens on torch: bfloat16 products on CPUs that have them, float16 tensor cores on GPUs."""

from __future__ import annotations

import threading

import numpy as np
import torch

from pipeline.clustering.halves import widen
from pipeline.clustering.nearest import Centroids
from pipeline.clustering.screens import (
    SCORES,
    UNIT,
    SgemmScreen,
    Vectors,
    exact_zero_rows,
    in_parts,
    row_counts,
    unknown,
)

_BF16 = 2.0**-8  # half an ulp of bfloat16, relative
_ROWS = 2048  # of one product at most: operands should stay in the core's cache
_scratch = threading.local()  # fresh pages for every product would cost a fifth of its time


def _buffer(name: str, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Uninitialised memory that this thread reuses."""
    size = shape[0] * shape[1]
    held = getattr(_scratch, name, None)
    if held is None or held.numel() < size:
        held = torch.empty(size, dtype=dtype)
        setattr(_scratch, name, held)
    return held[:size].view(shape)


class Bfloat16Screen:
    """One bfloat16 product with bfloat16 results, compared as 16-bit integers.

    The centroids are centred, so the best score of a row is positive, and positive bfloat16
    numbers order like their bits. Rows for which even the threshold is not positive, and rows
    with many candidates, go through `SgemmScreen`.
    """

    def __init__(self, centroids: Centroids, fallback: SgemmScreen):
        self.centroids = centroids
        self.fallback = fallback
        offset = torch.from_numpy(-centroids.offset)
        high = offset.bfloat16()
        low = (offset - high.double()).bfloat16()
        shifted = torch.from_numpy(centroids.shifted)
        # Two more columns, times one, subtract the offsets within the product.
        self.matrix = torch.cat([shifted.bfloat16(), high[:, None], low[:, None]], 1).t()
        rest = float((offset - high.double() - low.double()).abs().max())
        terms = shifted.shape[1] + 8
        gamma = 2 * terms * UNIT / (1 - 2 * terms * UNIT)  # products and sums may flush to zero
        self.longest = centroids.longest
        rounding = centroids.rounding(shifted.bfloat16().double().numpy())
        self.per_norm = rounding + gamma * (self.longest + rounding) * 1.01
        self.constant = rest + 2 * gamma * float(offset.abs().max()) + 1e-30
        self.few = max(4, len(offset) // 112)  # pairs whose exact comparison costs one row's sgemm

    def __call__(self, vectors: Vectors, rivals: np.ndarray | None = None) -> np.ndarray:
        rows = min(_ROWS, max(1, SCORES // self.matrix.shape[1]))
        return in_parts(self._some, vectors, rivals, rows)

    def _some(self, vectors: Vectors, rivals: np.ndarray | None) -> np.ndarray:
        n, d = vectors.x.shape
        x = _buffer("rows", (n, d + 2), torch.bfloat16)
        x[:, :d] = torch.from_numpy(widen(vectors.x))
        x[:, d:] = 1
        out = _buffer("scores", (n, self.matrix.shape[1]), torch.bfloat16)
        score = torch.mm(x, self.matrix, out=out).view(torch.int16).numpy()
        best = score.argmax(axis=1)
        top = as_float(score[np.arange(n), best])
        error = vectors.roundings * self.longest + self.per_norm * vectors.norms + self.constant
        # A score s errs by error + |s| * 2**-8 (the result's rounding); nothing below the
        # threshold, whose magnitude is at most |top| + 2 error, can truly be the best.
        threshold = top - 2 * error - 1.1 * _BF16 * (2 * np.abs(top) + 2 * error)
        bits = (np.maximum(threshold, 0).astype(np.float32).view(np.uint32) >> 16).astype(np.int16)
        candidates = score >= bits[:, None]
        counts = row_counts(candidates)
        counts = np.where((threshold > 0) & np.isfinite(top), counts, 65535)
        counts = exact_zero_rows(self.centroids, vectors.norms, best, counts)
        several = np.flatnonzero((counts > 1) & (counts <= self.few))
        if rivals is not None:
            score[np.arange(n), best] = np.iinfo(np.int16).min
            second = np.where(counts > 1, top, as_float(np.maximum(score.max(axis=1), 0)))
            rivals[:] = second + 1.1 * _BF16 * np.abs(second) + error * (1 + 4 * UNIT)
            unknown(self.centroids, vectors.norms, rivals)
        labels = self.centroids.decide(vectors.x, best, several, candidates[several])
        many = np.flatnonzero(counts > self.few)
        if len(many):
            closer = None if rivals is None else np.empty(len(many), np.float32)
            labels[many] = self.fallback(vectors[many], closer)
            if rivals is not None:
                rivals[many] = closer
        return labels


def as_float(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits int16[n] to float32[n]."""
    return (bits.astype(np.int32) << 16).view(np.float32)


class CudaScreen:
    """float16 tensor-core product with float32 results; the exact comparison stays on the host.

    The rows are float16 as they are, so only the centroids are rounded. ``device`` may be ``cpu``,
    where the product is taken in float32 of the same numbers: that is how it is tested without
    a GPU.
    """

    def __init__(
        self, centroids: Centroids, device: str, resident: dict[int, torch.Tensor] | None = None
    ):
        self.centroids = centroids
        self.device = torch.device(device)
        self.resident = resident
        shifted = torch.from_numpy(centroids.shifted)
        half = shifted.half()
        if not torch.isfinite(half).all():
            raise OverflowError("centroids beyond the range of float16")
        self.matrix = half.to(self.device).t()
        self.offset = torch.from_numpy(centroids.offset).float().to(self.device)
        # Tensor cores may truncate where IEEE rounds: twice the usual unit.
        terms = shifted.shape[1] + 8
        gamma = 2 * terms * UNIT / (1 - 2 * terms * UNIT)
        rounding = centroids.rounding(half.double().numpy())
        self.per_norm = (gamma + 16 * UNIT) * (centroids.longest + rounding) + rounding
        self.constant = 16 * UNIT * float(np.abs(centroids.offset).max()) + 1e-30

    def __call__(self, vectors: Vectors, rivals: np.ndarray | None = None) -> np.ndarray:
        return in_parts(self._some, vectors, rivals, max(1, (16 * SCORES) // len(self.offset)))

    def _on_device(self, x: np.ndarray) -> torch.Tensor:
        """The rows, kept on the device from pass to pass as long as it has room.

        ``resident`` goes by the address of the rows, so it is only for rows that stay in place:
        those of a shard in memory.
        """
        at = x.__array_interface__["data"][0]
        if self.resident is not None and at in self.resident:
            return self.resident[at]
        there = torch.from_numpy(x).to(self.device)
        if self.resident is not None and self._room() > 8 * SCORES * 64:
            self.resident[at] = there
        return there

    def _room(self) -> int:
        """Free bytes of the device; a GPU keeps room for the scores."""
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 1 << 40

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            return torch.mm(x, self.matrix, out_dtype=torch.float32)
        return torch.mm(x.float(), self.matrix.float())

    def _some(self, vectors: Vectors, rivals: np.ndarray | None) -> np.ndarray:
        if rivals is not None:
            rivals[:] = np.inf  # a product is cheaper here than what would spare it
        x = self._on_device(vectors.x)
        norms = torch.from_numpy(vectors.norms).to(self.device)
        score = self._product(x).sub_(self.offset)
        top, best = score.max(dim=1)
        threshold = top - 2.0 * (self.per_norm * norms + self.constant)
        candidates = score >= (threshold - 4 * UNIT * threshold.abs())[:, None]
        counts = candidates.sum(dim=1)
        several = torch.nonzero(counts > 1).ravel()
        chosen = candidates[several].cpu().numpy()
        places, best_np = several.cpu().numpy(), best.cpu().numpy()
        ones = exact_zero_rows(self.centroids, vectors.norms, best_np, np.full(len(best_np), 2))
        keep = ones[places] > 1
        return self.centroids.decide(vectors.x, best_np, places[keep], chosen[keep])
