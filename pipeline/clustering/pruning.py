"""Rows whose label cannot have changed are not compared again: exact, by the triangle inequality.

When centroid j moves by D_j, the score x·c_j - h_j of a row (nearest.py) grows by
``(x - m)·D_j + (m·D_j - dh_j)``, at most ``|x - m| |D_j| + s_j`` for any fixed point m. So a row
keeps its label if its own new score is above what all others may have grown to. One centroid that
jumps would spoil that bound for everyone; so the few that moved most, the *movers*, are compared
outright, in a matrix product of so many columns, and the bound is taken over the rest. This is
Hamerly's bound (SDM 2010) with groups as in Yinyang k-means (Ding et al., ICML 2015), of which
there are two here, drawn anew at every pass. How many movers pay is told from a sample of rows.

On clustered vectors the tenth iteration takes 0.1 to 0.5 of a whole pass (benchmarks/kmeans.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.clustering.halves import widen
from pipeline.clustering.nearest import Centroids, Frame
from pipeline.clustering.screens import LEAST, UNIT, Screen, SgemmScreen, Vectors

_SHARES = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the centroids that may be movers
_WORTH = 0.8  # estimated share of a whole pass above which a pass is whole
_OWN = 0.1  # what a row's comparison with its own centroid costs, as a share of all
_SAMPLE = 1024  # rows
_STEPS = 32  # radii at which the growth of the others is tabulated


@dataclass(frozen=True)
class Movers:
    """What a pass compares outright, and how much everything else may have grown.

    Attributes:
        columns: int64[f], the movers.
        radii: float64[_STEPS + 1], ascending.
        growth: float64[_STEPS + 1], the most by which a score of any other centroid can have
            grown for a row at most so far from the frame's centre.
    """

    columns: np.ndarray
    radii: np.ndarray
    growth: np.ndarray

    def grown(self, rivals: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Upper bounds float32[n] of the rivals' scores now."""
        at = np.searchsorted(self.radii, radii, side="left")
        now = rivals + self.growth[np.minimum(at, _STEPS)]
        return (now + 4 * UNIT * (np.abs(rivals) + np.abs(now))).astype(np.float32)


class Pruning:
    """What a shard remembers of its rows from pass to pass: 8 bytes a row.

    Args:
        rows: of the shard.
    """

    def __init__(self, rows: int):
        self.frame: Frame | None = None
        self._rivals = np.full(rows, np.inf, np.float32)  # at least every other score
        self._radii = np.full(rows, np.nan, np.float32)  # at least |x - m|
        self._before: Centroids | None = None
        self._movers: Movers | None = None
        self._plain: SgemmScreen | None = None
        self._matrix = np.zeros((0, 0), np.float32)  # of the movers

    def begin(self, centroids: Centroids, rows: slice, sample: Vectors, labels: np.ndarray) -> None:
        """Choose how the next pass is done, from the first of the rows of one block."""
        before, self._before, self._movers = self._before, None, None
        self.frame = centroids.frame
        if before is None or centroids.repeated or before.repeated or not len(sample.x):
            return
        plain = self._plain = SgemmScreen(centroids)
        some = slice(rows.start, rows.start + min(len(sample.x), _SAMPLE))
        sample, labels = sample[:_SAMPLE], labels[:_SAMPLE]
        own = self._own(widen(sample.x), labels) - plain.error(sample.norms)
        best = _WORTH
        for movers in self._choices(before, centroids):
            kept = own > movers.grown(self._rivals[some], self._radii[some])
            cost = _OWN + len(movers.columns) / len(centroids.all) + 1 - float(kept.mean())
            if cost < best:
                best, self._movers = cost, movers
        if self._movers is not None:
            self._matrix = np.ascontiguousarray(plain.matrix[:, self._movers.columns])

    def end(self, centroids: Centroids) -> None:
        """All rows have been labelled by these centroids."""
        self._before = centroids

    def labels(self, screen: Screen, rows: slice, block: Vectors, labels: np.ndarray) -> np.ndarray:
        """New labels int32[n] of a block's rows, whose labels so far are given."""
        rivals, radii = self._rivals[rows], self._radii[rows]
        if self._movers is None:
            if len(radii) and np.isnan(radii[0]):
                radii[:] = self._distances(block.x)
            return screen(block, rivals)
        again = np.flatnonzero(~self._kept(self._movers, block, labels, rivals, radii))
        new = labels.copy()
        if len(again):
            closer = np.empty(len(again), np.float32)
            new[again] = screen(block[again], closer)
            rivals[again] = closer
        return new

    def _kept(
        self,
        movers: Movers,
        block: Vectors,
        labels: np.ndarray,
        rivals: np.ndarray,
        radii: np.ndarray,
    ) -> np.ndarray:
        """bool[n]: rows that are sure to keep their label; their rivals' bounds are renewed."""
        plain, columns = self._plain, movers.columns
        assert plain is not None
        x = widen(block.x)
        error = plain.error(block.norms)
        own = self._own(x, labels) - error
        bounds = movers.grown(rivals, radii)
        kept = own > bounds
        if len(columns) and kept.any():
            score = x @ self._matrix
            score -= plain.offset[columns]
            place = np.full(len(plain.offset), -1)
            place[columns] = np.arange(len(columns))
            theirs = place[labels]
            among = np.flatnonzero(theirs >= 0)
            score[among, theirs[among]] = LEAST
            bounds = np.maximum(bounds, score.max(axis=1) + 2 * error)
            kept &= own > bounds
        rivals[:] = bounds
        return kept

    def _own(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Approximate score float32[n] of each row and its own centroid."""
        assert self._plain is not None
        score = np.einsum("ij,ij->i", x, self._plain.shifted[labels])
        return score - self._plain.offset[labels]

    def _choices(self, before: Centroids, now: Centroids) -> list[Movers]:
        moved = now.exact - before.exact
        lengths = np.sqrt(np.square(moved).sum(axis=1)) * (1 + 1e-9)
        centre, _ = now.frame
        drift = moved @ centre - (now.half - before.half)
        known = self._radii[np.isfinite(self._radii)].astype(np.float64)
        if not len(known):
            return []
        radii = np.linspace(known.min(), known.max(), _STEPS + 1)
        # One more than the rounding of the radii, so that a row's place in the table is above it.
        radii[-1] = known.max() * (1 + 1e-6)
        order = np.argsort(-(drift + known.mean() * lengths), kind="stable")
        found = []
        for share in _SHARES:
            movers = np.sort(order[: int(share * len(order))])
            rest = order[len(movers) :]
            growth = (drift[rest][:, None] + lengths[rest][:, None] * radii).max(axis=0)
            found.append(Movers(movers, radii, growth))
        return found

    def _distances(self, x: np.ndarray) -> np.ndarray:
        assert self.frame is not None
        apart = widen(x) - self.frame[0].astype(np.float32)
        # Float32 sums of squares err by less than the slack; so does the centre's rounding.
        return np.sqrt(np.einsum("ij,ij->i", apart, apart)) * np.float32(1 + 1e-4) + np.float32(
            1e-6
        )
