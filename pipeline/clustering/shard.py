"""One shard: everything that is computed where the vectors lie.

Every method is a pure function of the feature files, the transform's file and its arguments; what
is kept between calls (vectors, labels of the last step) only saves time. So an actor that died is
restarted by Ray, the call is retried, and the answer is the same. The one exception are the
distances of seeding, which build up call by call: a shard that lost them says so
(`LostSpreadError`), and seeding starts over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.clustering.assign import CentroidIndex, distances, offsets, widen
from pipeline.clustering.balance import soft_sizes
from pipeline.clustering.blocks import generator, snap
from pipeline.clustering.sums import ClusterSums
from pipeline.clustering.transform import Moments
from pipeline.clustering.vectors import ShardSpec, ShardVectors

if TYPE_CHECKING:
    from pipeline.clustering.resident import GpuBlocks


class Shard:
    """See the module's text."""

    def __init__(self, spec: ShardSpec):
        self.spec = spec
        self.vectors = ShardVectors(spec)
        self._sums: ClusterSums | GpuBlocks | None = None
        self._stepped: tuple[bytes, bytes] | None = None  # key of the last step that ended
        # Seeds so far, and float32[n], the squared distance of every row to the nearest of them.
        self._spread: tuple[int, np.ndarray] | None = None

    def survey(self) -> tuple[np.ndarray, float, list[str]]:
        """Present clips of every block int64[blocks], and see `inputs.Rows`: highest, problems."""
        raw = self.vectors.load()
        return self.vectors.counts, raw.highest, raw.problems

    def moments(self, scale: float) -> Moments:
        """Sums for PCA over the raw rows."""
        width = self.vectors.load().dim
        none = Moments(0, np.zeros(width), np.zeros((width, width)))
        blocks, num_clips = self.vectors.raw_blocks(), self.spec.blocks.num_clips
        return sum((Moments.of(block, scale, num_clips) for block in blocks), none)

    def energy(self) -> float:
        """Sum of squared norms of the vectors, snapped per block."""

        def one(_: slice, block: np.ndarray) -> float:
            # Coordinates are at most 1, so a block's sum is at most rows * d.
            bound = float(self.spec.blocks.num_clips) * self.vectors.dim
            return float(snap(np.square(widen(block), dtype=np.float64).sum(), bound))

        return sum(self.vectors.each(one))

    def fetch(self, places: np.ndarray) -> np.ndarray:
        """float16[m, d], those of the rows that lie in this shard.

        Args:
            places: int64[n, 2], block of the clustering and row within it.
        """
        self.vectors.prepare()
        block = places[:, 0]
        mine = places[(block >= self.spec.first) & (block < self.spec.last)].tolist()
        found = [self.vectors.block(b - self.spec.first)[row] for b, row in mine]
        return np.array(found, np.float16).reshape(-1, self.vectors.dim)

    def spread(self, seeds: np.ndarray, known: int) -> np.ndarray:
        """Squared distance of every row to its nearest seed, summed by block.

        Args:
            seeds: float32[m, d], further seeds.
            known: number of seeds given before.

        Returns:
            float64[blocks], each snapped to the grid of the whole.

        Raises:
            LostSpreadError: this shard was restarted since.
        """
        self.vectors.prepare()
        if known == 0:
            self._spread = (0, np.full(len(self.vectors.clips), np.inf, np.float32))
        if self._spread is None or self._spread[0] != known:
            raise LostSpreadError
        least = self._spread[1]
        squares = np.square(seeds).sum(axis=1)

        def one(rows: slice, block: np.ndarray) -> float:
            x, mine = widen(block), least[rows]
            norms = np.einsum("ij,ij->i", x, x)
            # One seed at a time through the same product, however many are given at once.
            for seed, square in zip(seeds, squares):
                apart = norms + square - 2 * (x @ seed)
                # What is left of equal vectors is rounding: they are not to be drawn.
                apart[apart < 4e-6 * (norms + square)] = 0
                np.minimum(mine, apart, out=mine)
            bound = 4.0 * self.spec.blocks.num_clips * self.vectors.dim
            return float(snap(mine.astype(np.float64).sum(), bound))

        totals = self.vectors.each(one)
        self._spread = (known + len(seeds), least)
        return np.array(totals)

    def pick(self, block: int, share: float) -> np.ndarray:
        """float16[1, d], the row at which ``share`` of its block's sum of squares is passed.

        float16[0, d] where the block is not in this shard.
        """
        places = np.zeros((0, 2), np.int64)
        if self.spec.first <= block < self.spec.last:
            sums = np.cumsum(self._least(block), dtype=np.float64)
            row = min(np.searchsorted(sums, share * sums[-1], side="right"), len(sums) - 1)
            places = np.array([[block, row]])
        return self.fetch(places)

    def oversample(self, factor: float, numbers: Sequence[int]) -> np.ndarray:
        """int64[m, 2] places of rows drawn with probability ``factor`` * squared distance.

        Args:
            numbers: the seed, then what else the draws depend on (`blocks.generator`).
        """
        seed, *others = numbers
        places = [np.zeros((0, 2), np.int64)]
        for block in range(self.spec.first, self.spec.last):
            least = self._least(block)
            random = generator(seed, "oversample", *others, block)
            rows = np.flatnonzero(random.random(len(least)) < factor * least)
            places.append(np.stack([np.full(len(rows), block), rows], axis=1))
        return np.concatenate(places)

    def _least(self, block: int) -> np.ndarray:
        if self._spread is None:
            raise LostSpreadError
        return self._spread[1][self.vectors.place(block - self.spec.first)]

    def step(
        self, centroids: np.ndarray, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Assign and accumulate.

        Returns:
            sums float64[k, d] and counts int64[k] of the rows nearest to each centroid: exact.
        """
        self._stepped = None
        self.vectors.prepare()
        sums = self._cluster_sums()
        sums.begin(centroids, bias, self.spec.spherical)
        self.vectors.each(lambda rows, block: sums.add(rows, block))
        self._stepped = _key(centroids, bias)
        return sums.total()

    def _cluster_sums(self) -> ClusterSums | GpuBlocks:
        if self._sums is None and self.spec.device == "cpu":
            self._sums = ClusterSums(len(self.vectors.clips), self.vectors.dim)
        elif self._sums is None:
            from pipeline.clustering.resident import GpuBlocks

            self._sums = GpuBlocks(self.spec.device, len(self.vectors.clips))
        return self._sums

    def assign(
        self, centroids: np.ndarray, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """clip_index int64[n], label int32[n] and distance float32[n] of all rows."""
        if self._stepped != _key(centroids, bias):
            self.step(centroids, bias)
        labels = self._cluster_sums().labels.copy()

        def one(rows: slice, block: np.ndarray) -> np.ndarray:
            return distances(block, centroids, labels[rows])

        return self.vectors.clips, labels, np.concatenate(self.vectors.each(one))

    def assign_some(
        self, clips: np.ndarray, centroids: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `assign`, for those of ``clips`` (int64[m], ascending) that lie in this shard.

        Rows of one block are searched together, whatever else the shard holds.
        """
        self.vectors.prepare()
        index = CentroidIndex(centroids, bias, self.spec.spherical)
        asked = np.isin(self.vectors.clips, clips, assume_unique=True)

        def one(rows: slice, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            some = block[asked[rows]]
            labels = index.nearest(index.rows(some))
            return labels, distances(some, centroids, labels)

        labels, near = zip(*self.vectors.each(one))
        return np.concatenate(labels), np.concatenate(near)

    def soft_sizes(self, centroids: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """float64[k], the column sums of Sinkhorn's matrix (see `balance`)."""
        taken = offsets(centroids, bias, self.spec.spherical)
        matrix = np.ascontiguousarray(centroids.T, np.float32)

        def one(_: slice, block: np.ndarray) -> np.ndarray:
            return soft_sizes(block, matrix, taken, self.spec.blocks.num_clips)

        return np.sum(self.vectors.each(one), axis=0)


def _key(centroids: np.ndarray, bias: np.ndarray | None) -> tuple[bytes, bytes]:
    return centroids.tobytes(), b"" if bias is None else bias.tobytes()


class LostSpreadError(RuntimeError):
    """The shard was restarted during seeding and has no distances: seeding starts over."""
