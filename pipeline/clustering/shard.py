"""One shard: the vectors of a range of blocks, and everything that is computed where they lie.

Every method is a pure function of the feature files, the transform's file and its arguments; what
is kept between calls (vectors, labels of the last step, distances of seeding) only saves time.
So an actor that died is restarted by Ray, the call is retried, and the answer is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.clustering import features as feature_files
from pipeline.clustering.blocks import Blocks, snap
from pipeline.clustering.nearest import Centroids, distances
from pipeline.clustering.screens import SgemmScreen
from pipeline.clustering.sums import ClusterSums
from pipeline.clustering.transform import Moments, Transform
from pipeline.storage import Location


@dataclass(frozen=True)
class ShardSpec:
    """What a shard actor is built from, and rebuilt from after its death.

    Attributes:
        features: one folder per modality.
        blocks: of the whole clustering.
        first, last: range of blocks of this shard.
        out: the clustering's folder, where the transform's file is.
        budget: bytes of memory for vectors.
        scratch: local folder for vectors beyond the budget; None: the system's.
        spherical: whether scores are inner products.
    """

    features: tuple[Location, ...]
    blocks: Blocks
    first: int
    last: int
    out: Location
    budget: int
    scratch: str | None
    spherical: bool


@dataclass(frozen=True)
class Survey:
    """What the index needs to know of a shard before it starts.

    Attributes:
        counts: int64[blocks], present clips per block.
        highest: largest absolute raw value.
        problems: see `features.Rows`.
    """

    counts: np.ndarray
    highest: float
    problems: list[str]


class Shard:
    """See the module's text. Vectors are float16[n, d] in order of clip index."""

    def __init__(self, spec: ShardSpec):
        self.spec = spec
        self._raw: feature_files.Rows | None = None
        self._ready = False
        self._sums: ClusterSums | None = None
        self._nearest: tuple[int, np.ndarray] | None = (
            None  # of seeding: centroids seen, float32[n]
        )

    # -- loading -----------------------------------------------------------------------------

    def survey(self) -> Survey:
        raw = self._load()
        return Survey(self.counts, raw.highest, raw.problems)

    def moments(self, scale: float) -> Moments:
        """Sums for PCA over the raw rows."""
        if self._ready:  # the raw rows have been replaced by vectors
            self._raw = None
        raw = self._load()
        zero = np.zeros(raw.dim)
        total = Moments(0, zero, np.zeros((raw.dim, raw.dim)))
        for first, last in self._slots():
            block = raw.block(first, last)
            if len(block):
                total = total + Moments.of(block, scale, self.spec.blocks.num_clips)
            raw.buffer.release()
        return total

    def energy(self) -> float:
        """Sum of squared norms of the vectors, snapped per block."""
        self._transform()
        bound = float(self.spec.blocks.num_clips) * max(self.dim, 1)
        total = 0.0
        for block in self._blocks():
            total += float(snap(np.square(block.astype(np.float64)).sum(), bound))
        return total

    def _load(self) -> feature_files.Rows:
        if self._raw is None:
            spec = self.spec
            start, stop = spec.blocks.clips(spec.first, spec.last)
            self._raw = feature_files.load(spec.features, start, stop, spec.budget, spec.scratch)
            self._ready = False
            self.counts = np.array(
                [int(self._raw.present[a:b].sum()) for a, b in self._slots()], np.int64
            )
        return self._raw

    def _slots(self) -> list[tuple[int, int]]:
        """Slot ranges of this shard's blocks."""
        spec = self.spec
        start = spec.blocks.clips(spec.first, spec.last)[0]
        ranges = (spec.blocks.clips(b, b + 1) for b in range(spec.first, spec.last))
        return [(a - start, b - start) for a, b in ranges]

    def _transform(self) -> None:
        """Replace raw rows by vectors, in place: a vector is never longer than its raw row."""
        if self._ready:
            return
        raw = self._load()
        transform = Transform.load(self.spec.out / "transform.npz")
        start = self.spec.blocks.clips(self.spec.first, self.spec.last)[0]
        self.dim = transform.dim
        self.clips = np.flatnonzero(raw.present) + start
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        for number, (first, last) in enumerate(self._slots()):
            vectors = transform(raw.block(first, last))
            offset = int(self.starts[number]) * self.dim * 2
            raw.buffer.rows(offset, vectors.shape, np.float16)[:] = vectors
            raw.buffer.release()
        raw.buffer.shrink(int(self.starts[-1]) * self.dim * 2)
        self._ready = True

    def _block(self, number: int) -> np.ndarray:
        """float16[rows, d] of the shard's ``number``-th block; a view."""
        assert self._raw is not None
        rows = int(self.counts[number])
        return self._raw.buffer.rows(
            int(self.starts[number]) * self.dim * 2, (rows, self.dim), np.float16
        )

    def _blocks(self):
        self._transform()
        assert self._raw is not None
        for number in range(len(self.counts)):
            yield self._block(number)
            self._raw.buffer.release()

    # -- queries -----------------------------------------------------------------------------

    def fetch(self, places: np.ndarray) -> np.ndarray:
        """float16[m, d] of rows given as int64[m, 2]: block of the clustering, row within it."""
        self._transform()
        return np.stack([self._block(b - self.spec.first)[r] for b, r in places.tolist()])

    def step(self, centroids: np.ndarray, bias: np.ndarray | None = None):
        """Assign and accumulate.

        Returns:
            sums float64[k, d] and counts int64[k] of the rows nearest to each centroid: exact.
        """
        self._transform()
        screen = SgemmScreen(Centroids(centroids, bias, self.spec.spherical))
        if self._sums is None or self._sums.k != len(centroids):
            self._sums = ClusterSums(len(centroids), self.dim, len(self.clips))
        for number, block in enumerate(self._blocks()):
            self._sums.update(int(self.starts[number]), block, screen(block))
        return self._sums.sums.copy(), self._sums.counts.copy()

    def assign(self, centroids: np.ndarray, bias: np.ndarray | None = None):
        """clip_index int64[n], label int32[n] and distance float32[n] of all rows."""
        self._transform()
        screen = SgemmScreen(Centroids(centroids, bias, self.spec.spherical))
        labels, near = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for block in self._blocks():
            label = screen(block)
            labels.append(label)
            near.append(np.sqrt(distances(block, centroids, label)).astype(np.float32))
        return self.clips, np.concatenate(labels), np.concatenate(near)
