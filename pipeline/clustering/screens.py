"""Approximate scores of a block, fast, with a bound on their error (see nearest.py)."""

from __future__ import annotations

import numpy as np

from pipeline.clustering.nearest import Centroids

_UNIT = 2.0**-24  # half an ulp of float32, relative
_SCORES = 1 << 22  # scores held at once, 16 MB


class SgemmScreen:
    """One float32 matrix product on numpy's BLAS."""

    def __init__(self, centroids: Centroids):
        self.centroids = centroids
        shifted = centroids.shifted.astype(np.float32)
        self.matrix = np.ascontiguousarray(shifted.T)
        self.offset = centroids.offset.astype(np.float32)
        d = shifted.shape[1]
        exact = centroids.shifted
        length = float(np.sqrt(np.square(exact).sum(axis=1)).max())
        rounding = float(np.sqrt(np.square(exact - shifted).sum(axis=1)).max())
        # Any order of d products and sums in float32 errs by at most gamma * |x| |c| (Higham 2002,
        # section 3.1); then the offset's rounding, the subtraction's, and that of the threshold.
        gamma = (d + 4) * _UNIT / (1 - (d + 4) * _UNIT)
        self.per_norm = (gamma + 8 * _UNIT) * length + rounding
        self.constant = 8 * _UNIT * float(np.abs(centroids.offset).max()) + 1e-30

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Labels int32[n] of rows float16[n, d]."""
        wide = x.astype(np.float32)
        rows = max(1, _SCORES // len(self.offset))
        return np.concatenate(
            [self._some(x[at : at + rows], wide[at : at + rows]) for at in range(0, len(x), rows)]
            or [np.zeros(0, np.int32)]
        )

    def _some(self, x: np.ndarray, wide: np.ndarray) -> np.ndarray:
        score = wide @ self.matrix
        score -= self.offset
        best = score.argmax(axis=1)
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide)) * 1.0001
        error = self.per_norm * norms + self.constant
        top = score[np.arange(len(score)), best]
        threshold = (top - 2.0 * error).astype(np.float32)
        threshold = np.nextafter(threshold, np.float32(-np.inf))
        candidates = score >= threshold[:, None]
        if norms.min(initial=1.0) == 0.0:  # rows of zeros: all scores are -h, known exactly
            zero = norms == 0.0
            best[zero] = self.centroids.zero_row
            candidates[zero] = False
        if np.count_nonzero(candidates) <= len(x):
            return self.centroids.decide(x, best, None)
        several = np.flatnonzero(candidates.sum(axis=1) > 1)
        flat = np.flatnonzero(candidates[several])
        rows, columns = np.divmod(flat, candidates.shape[1])
        positions = several[rows] * candidates.shape[1] + columns
        return self.centroids.decide(x, best, positions)
