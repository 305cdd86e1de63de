"""Which centroid is nearest: a fast screen with a proven error bound, then an exact comparison.

Definition. With ``t(x, j) = fl64(sum_i x_i * c_ji) - h_j``, where products of float16 and float32
are exact in float64, the sum runs in numpy's pairwise order and ``h_j`` is half the squared norm
of centroid j less its bias, the label of x is the j with the largest t, the lowest j among equals.

A screen computes approximate scores of a block with one matrix product and keeps, for every row,
the centroids within twice the error bound of the best. Nearly always that is one, which then is
the label; the rest are compared by the definition. So labels are a pure function of (row,
centroids, bias): block size, BLAS, instruction set and device cannot change them, and the fastest
screen may be chosen by the clock (`screens.py`).
"""

from __future__ import annotations

import numpy as np

from pipeline.clustering.halves import widen

_PAIRS = 1 << 20  # numbers gathered at once by the exact comparison

# Scores may be shifted by x·m and by a constant without changing the best: float64[d] and number.
Frame = tuple[np.ndarray, float]


class Centroids:
    """Centroids prepared for one assignment pass.

    Args:
        centroids: float32[k, d].
        bias: float64[k] added to each centroid's score (balance), None for plain distance.
        spherical: score by the inner product alone.
        frame: that scores are given in; None: the one with the tightest error bounds.
    """

    def __init__(
        self,
        centroids: np.ndarray,
        bias: np.ndarray | None = None,
        spherical: bool = False,
        frame: Frame | None = None,
    ):
        self.all = np.ascontiguousarray(centroids, np.float32)
        exact = self.all.astype(np.float64)
        half = np.zeros(len(exact)) if spherical else 0.5 * np.square(exact).sum(axis=1)
        if bias is not None:
            half = half - bias
        self.plain_half = half
        # Equal centroids with equal bias: only the first can win, and hundreds of exact ties a
        # row would be compared in vain.
        key = np.column_stack(
            [self.all + np.float32(0), half.astype(np.float64).view(np.float32).reshape(-1, 2)]
        )
        view = np.ascontiguousarray(key).view(
            np.dtype((np.void, key.dtype.itemsize * key.shape[1]))
        )
        self.ids = np.sort(np.unique(view.ravel(), return_index=True)[1])
        self.exact = exact[self.ids]
        self.half = half[self.ids]
        # Small operands keep the bounds tight.
        self.frame: Frame = frame or (self.exact.mean(axis=0), float(self.half.mean()))
        centre, level = self.frame
        self.shifted = self.exact - centre
        self.offset = self.half - level
        self.zero_row = int(np.argmin(self.half))

    def scores(self, x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """t of the definition, float64[m], for the pairs (rows[i], columns[i])."""
        d = x.shape[1]
        wide = widen(x)
        out = np.empty(len(rows))
        step = max(1, _PAIRS // max(d, 1))
        for at in range(0, len(rows), step):
            some = slice(at, at + step)
            products = self.exact[columns[some]]
            products *= wide[rows[some]]
            out[some] = products.sum(axis=1)
        return out - self.half[columns]

    @property
    def repeated(self) -> bool:
        """Whether some centroids are equal: only the first of them is among the columns."""
        return len(self.ids) < len(self.all)

    @property
    def longest(self) -> float:
        """Length of the longest shifted centroid."""
        return float(np.sqrt(np.square(self.shifted).sum(axis=1)).max())

    def rounding(self, rounded: np.ndarray) -> float:
        """Length of the largest difference that rounding the shifted centroids made."""
        return float(np.sqrt(np.square(self.shifted - rounded).sum(axis=1)).max())

    def decide(
        self, x: np.ndarray, best: np.ndarray, rows: np.ndarray, candidates: np.ndarray
    ) -> np.ndarray:
        """Labels int32[n] from a screen's best columns and the rows it could not settle.

        Args:
            x: float16[n, d].
            best: int[n], column of the highest approximate score.
            rows: int[m], ascending: rows with more than one candidate.
            candidates: bool[m, columns], at least one in each row.
        """
        if len(rows):
            row, column = np.nonzero(candidates)
            score = self.scores(x[rows], row, column)
            starts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
            top = np.repeat(
                np.maximum.reduceat(score, starts), np.diff(np.append(starts, len(row)))
            )
            winners = np.flatnonzero(score == top)
            first = winners[np.unique(row[winners], return_index=True)[1]]
            best[rows] = column[first]
        return self.ids[best].astype(np.int32)


def distances(x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared distances float64[n] of rows float16[n, d] to their own centroids."""
    out = np.empty(len(x))
    step = max(1, _PAIRS // max(x.shape[1], 1))
    for at in range(0, len(x), step):
        some = slice(at, at + step)
        difference = widen(x[some]).astype(np.float64) - centroids[labels[some]]
        out[some] = np.square(difference).sum(axis=1)
    return out
