"""One shard: everything that is computed where the vectors lie.

Every method is a pure function of the feature files, the transform's file and its arguments; what
is kept between calls (vectors, labels of the last step) only saves time. So an actor that died is
restarted by Ray, the call is retried, and the answer is the same. The one exception are the
distances of seeding, which build up call by call: a shard that lost them says so
(`LostSpreadError`), and seeding starts over.
"""

from __future__ import annotations

import numpy as np

from pipeline.clustering.balance import soft_sizes
from pipeline.clustering.blocks import generator, snap
from pipeline.clustering.halves import widen
from pipeline.clustering.nearest import Centroids, distances
from pipeline.clustering.pruning import Pruning
from pipeline.clustering.screens import Screens, SgemmScreen, Vectors
from pipeline.clustering.sums import ClusterSums
from pipeline.clustering.transform import Moments
from pipeline.clustering.vectors import ShardSpec, ShardVectors, Survey


class Shard:
    """See the module's text."""

    def __init__(self, spec: ShardSpec):
        self.spec = spec
        self.vectors = ShardVectors(spec)
        self._rows: tuple[ClusterSums, Pruning] | None = None
        self._screens: Screens | None = None
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

        self._warm()

        def one(_: int, block: Vectors) -> float:
            # Coordinates are at most 1, so a block's sum is at most rows * d.
            bound = float(self.spec.blocks.num_clips) * self.vectors.dim
            return float(snap(np.square(widen(block.x), dtype=np.float64).sum(), bound))

        return sum(self.vectors.each(one))

    def fetch(self, places: np.ndarray) -> np.ndarray:
        """float16[m, d] of rows given as int64[m, 2]: block of the clustering, row within it."""
        self.vectors.prepare()
        found = [self.vectors.block(b - self.spec.first).x[r] for b, r in places.tolist()]
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

        def one(number: int, block: Vectors) -> float:
            x = widen(block.x)
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
        screens = self._warm()
        rows, k = len(self.vectors.clips), len(centroids)
        if self._rows is None or self._rows[0].k != k:
            self._rows = ClusterSums(k, self.vectors.dim, rows), Pruning(rows)
        sums, pruning = self._rows
        prepared = Centroids(centroids, bias, self.spec.spherical, pruning.frame)
        place, sample = self._fullest()
        screen = screens.prepare(prepared, sample)
        on_gpu = screens.device != "cpu"  # where a product is cheaper than what would spare it
        if not on_gpu:
            pruning.begin(prepared, place, sample, sums.labels[place])

        def one(number: int, block: Vectors) -> None:
            place = self._place(number)
            if on_gpu:
                labels = screen(block)
            else:
                labels = pruning.labels(screen, place, block, sums.labels[place])
            sums.update(place.start, block.x, labels)

        self.vectors.each(one)
        pruning.end(prepared)
        self._stepped = _key(centroids, bias)
        return sums.sums.copy(), sums.counts.copy()

    def assign(
        self, centroids: np.ndarray, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """clip_index int64[n], label int32[n] and distance float32[n] of all rows."""
        if self._stepped != _key(centroids, bias):
            self.step(centroids, bias)
        assert self._rows is not None
        found = self._rows[0].labels

        def one(number: int, block: Vectors) -> tuple[np.ndarray, np.ndarray]:
            return self._labelled(block, centroids, found[self._place(number)].copy())

        answers = self.vectors.each(one)
        labels = np.concatenate([np.zeros(0, np.int32), *(a[0] for a in answers)])
        return self.vectors.clips, labels, np.concatenate([[], *(a[1] for a in answers)])

    def assign_some(
        self, clips: np.ndarray, centroids: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `assign`, for those of ``clips`` (ascending) that lie in this shard."""
        start, stop = self.spec.blocks.clips(self.spec.first, self.spec.last)
        rows = self.vectors.rows(clips[(clips >= start) & (clips < stop)])
        screen = SgemmScreen(Centroids(centroids, bias, self.spec.spherical))
        return self._labelled(rows, centroids, screen(rows))

    def soft_sizes(self, centroids: np.ndarray, bias: np.ndarray, strength: float) -> np.ndarray:
        """float64[k], the column sums of Sinkhorn's matrix (see `balance`)."""
        half = Centroids(centroids, bias, self.spec.spherical).plain_half
        matrix = np.ascontiguousarray(centroids.T, np.float32)

        def one(_: int, block: Vectors) -> np.ndarray:
            return soft_sizes(block.x, matrix, half, strength, self.spec.blocks.num_clips)

        return np.sum(self.vectors.each(one), axis=0)

    def _labelled(
        self, block: Vectors, centroids: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return labels, np.sqrt(distances(block.x, centroids, labels)).astype(np.float32)

    def _warm(self) -> Screens:
        """Vectors and libraries, ready for the first step."""
        self.vectors.prepare()
        if self._screens is None:
            rows, dim = len(self.vectors.clips), self.vectors.dim
            work = float(rows) * dim * self.spec.products
            self._screens = Screens(self.spec.device, work, not self.vectors.on_disk)
        return self._screens

    def _fullest(self) -> tuple[slice, Vectors]:
        """The block with the most rows, and where these lie in the shard."""
        number = int(np.argmax(self.vectors.counts))
        return self._place(number), self.vectors.block(number)

    def _place(self, number: int) -> slice:
        return slice(int(self.vectors.starts[number]), int(self.vectors.starts[number + 1]))


def _key(centroids: np.ndarray, bias: np.ndarray | None) -> tuple[bytes, bytes]:
    return centroids.tobytes(), b"" if bias is None else bias.tobytes()


class LostSpreadError(RuntimeError):
    """The shard was restarted during seeding and has no distances: seeding starts over."""
