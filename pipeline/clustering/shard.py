"""One shard: everything that is computed where the vectors lie.

Every method is a pure function of the feature files, the transform's file and its arguments; what
is kept between calls (vectors, labels of the last step) only saves time. So an actor that died is
restarted by Ray, the call is retried, and the answer is the same. The one exception are the
distances of seeding, which build up call by call: a shard that lost them says so
(`LostSpreadError`), and seeding starts over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.clustering.assign import CentroidIndex, distances, offsets
from pipeline.clustering.balance import soft_sizes
from pipeline.clustering.blocks import generator, snap
from pipeline.clustering.halves import widen
from pipeline.clustering.sums import ClusterSums
from pipeline.clustering.transform import Moments
from pipeline.clustering.vectors import ShardSpec, ShardVectors, Survey

if TYPE_CHECKING:
    from pipeline.clustering.resident import GpuBlocks


class Shard:
    """See the module's text."""

    def __init__(self, spec: ShardSpec):
        self.spec = spec
        self.vectors = ShardVectors(spec)
        self._sums: ClusterSums | None = None
        self._gpu: GpuBlocks | None = None
        self._labels = np.zeros(0, np.int32)  # of the last step
        self._stepped: tuple[bytes, bytes] | None = None  # key of the last step that ended
        self._spread: tuple[int, np.ndarray] | None = None

    # -- before the iterations ---------------------------------------------------------------

    def survey(self) -> Survey:
        return self.vectors.survey()

    def moments(self, scale: float) -> Moments:
        """Sums for PCA over the raw rows."""
        width = self.vectors.load().dim
        total = Moments(0, np.zeros(width), np.zeros((width, width)))
        for block in self.vectors.raw_blocks():
            total = total + Moments.of(block, scale, self.spec.blocks.num_clips)
        return total

    def energy(self) -> float:
        """Sum of squared norms of the vectors, snapped per block."""
        self.vectors.prepare()

        def one(_: int, block: np.ndarray) -> float:
            # Coordinates are at most 1, so a block's sum is at most rows * d.
            bound = float(self.spec.blocks.num_clips) * self.vectors.dim
            return float(snap(np.square(widen(block), dtype=np.float64).sum(), bound))

        return sum(self.vectors.each(one))

    def fetch(self, places: np.ndarray) -> np.ndarray:
        """float16[m, d] of rows given as int64[m, 2]: block of the clustering, row within it."""
        self.vectors.prepare()
        found = [self.vectors.block(b - self.spec.first)[r] for b, r in places.tolist()]
        return np.stack(found)

    # -- seeding -----------------------------------------------------------------------------

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

        def one(number: int, block: np.ndarray) -> float:
            x = widen(block)
            norms = np.einsum("ij,ij->i", x, x)[:, None]
            # One seed at a time through the same product, however many are given at once.
            for seed, square in zip(seeds, squares):
                apart = norms[:, 0] + square - 2 * (x @ seed)
                # What is left of equal vectors is rounding: they are not to be drawn.
                apart[apart < 4e-6 * (norms[:, 0] + square)] = 0
                at = int(self.vectors.starts[number])
                mine = least[at : at + len(x)]
                np.minimum(mine, apart, out=mine)
            rows = slice(self.vectors.starts[number], self.vectors.starts[number + 1])
            bound = 4.0 * self.spec.blocks.num_clips * self.vectors.dim
            return float(snap(least[rows].astype(np.float64).sum(), bound))

        totals = self.vectors.each(one)
        self._spread = (known + len(seeds), least)
        return np.array(totals)

    def pick(self, block: int, share: float) -> int:
        """Row of a block at which ``share`` in [0, 1) of its sum of squared distances is passed."""
        number = block - self.spec.first
        sums = np.cumsum(self._least(number), dtype=np.float64)
        return int(min(np.searchsorted(sums, share * sums[-1], side="right"), len(sums) - 1))

    def oversample(self, factor: float, seed: int, restart: int, turn: int) -> np.ndarray:
        """int64[m, 2] places of rows drawn with probability ``factor`` * squared distance."""
        places = [np.zeros((0, 2), np.int64)]
        for number in range(len(self.vectors.counts)):
            block = number + self.spec.first
            least = self._least(number)
            random = generator(seed, "oversample", restart, turn, block)
            rows = np.flatnonzero(random.random(len(least)) < factor * least)
            places.append(np.stack([np.full(len(rows), block), rows], axis=1))
        return np.concatenate(places)

    def _least(self, number: int) -> np.ndarray:
        if self._spread is None:
            raise LostSpreadError
        return self._spread[1][self.vectors.starts[number] : self.vectors.starts[number + 1]]

    # -- iterations --------------------------------------------------------------------------

    def step(
        self, centroids: np.ndarray, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Assign and accumulate.

        Returns:
            sums float64[k, d] and counts int64[k] of the rows nearest to each centroid: exact.
        """
        self._stepped = None
        self.vectors.prepare()
        total = self._step_on_gpu if self.spec.device != "cpu" else self._step
        answer = total(centroids, bias)
        self._stepped = _key(centroids, bias)
        return answer

    def _step(
        self, centroids: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._sums is None or self._sums.k != len(centroids):
            self._sums = ClusterSums(len(centroids), self.vectors.dim, len(self.vectors.clips))
        sums, index = self._sums, CentroidIndex(centroids, bias, self.spec.spherical)
        self._labels = sums.labels

        def one(number: int, block: np.ndarray) -> None:
            rows = index.rows(block)
            labels = index.nearest(rows)
            sums.update(self._place(number).start, rows[:, : block.shape[1]], labels)

        self.vectors.each(one)
        return sums.total()

    def _step_on_gpu(
        self, centroids: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._gpu is None:
            from pipeline.clustering.resident import GpuBlocks

            self._gpu = GpuBlocks(self.spec.device, len(self.vectors.clips))
        gpu = self._gpu
        gpu.begin(centroids, bias, self.spec.spherical)
        self._labels = gpu.labels
        self.vectors.each(lambda number, block: gpu.add(number, self._place(number).start, block))
        return gpu.total()

    def assign(
        self, centroids: np.ndarray, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """clip_index int64[n], label int32[n] and distance float32[n] of all rows."""
        if self._stepped != _key(centroids, bias):
            self.step(centroids, bias)
        labels = self._labels

        def one(number: int, block: np.ndarray) -> np.ndarray:
            return distances(block, centroids, labels[self._place(number)])

        near = [np.zeros(0, np.float32), *self.vectors.each(one)]
        return self.vectors.clips, labels.copy(), np.concatenate(near)

    def assign_some(
        self, clips: np.ndarray, centroids: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `assign`, for those of ``clips`` (int64[m], ascending) that lie in this shard.

        Rows of one block are searched together, whatever else the shard holds.
        """
        self.vectors.prepare()
        index = CentroidIndex(centroids, bias, self.spec.spherical)
        start, stop = self.spec.blocks.clips(self.spec.first, self.spec.last)
        mine = clips[(clips >= start) & (clips < stop)]
        asked = np.zeros(len(self.vectors.clips), bool)
        asked[np.searchsorted(self.vectors.clips, mine)] = True

        def one(number: int, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = block[asked[self._place(number)]]
            labels = index.nearest(index.rows(rows))
            return labels, distances(rows, centroids, labels)

        labels, near = zip(*self.vectors.each(one))
        return np.concatenate(labels), np.concatenate(near)

    def soft_sizes(self, centroids: np.ndarray, bias: np.ndarray, strength: float) -> np.ndarray:
        """float64[k], the column sums of Sinkhorn's matrix (see `balance`)."""
        taken = offsets(centroids, bias, self.spec.spherical)
        matrix = np.ascontiguousarray(centroids.T, np.float32)

        def one(_: int, block: np.ndarray) -> np.ndarray:
            return soft_sizes(block, matrix, taken, strength, self.spec.blocks.num_clips)

        return np.sum(self.vectors.each(one), axis=0)

    def _place(self, number: int) -> slice:
        return slice(int(self.vectors.starts[number]), int(self.vectors.starts[number + 1]))


def _key(centroids: np.ndarray, bias: np.ndarray | None) -> tuple[bytes, bytes]:
    return centroids.tobytes(), b"" if bias is None else bias.tobytes()


class LostSpreadError(RuntimeError):
    """The shard was restarted during seeding and has no distances: seeding starts over."""
