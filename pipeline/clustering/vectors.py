"""The vectors of one shard: read from feature files, transformed in place, handed out by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.clustering import inputs as feature_files
from pipeline.clustering.assign import prepare_process
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.transform import Transform
from pipeline.storage import Location

Answer = TypeVar("Answer")


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
        threads: of this shard; each works on a block of its own.
        device: ``cpu`` or ``cuda``.
    """

    features: tuple[Location, ...]
    blocks: ClipBlocks
    first: int
    last: int
    out: Location
    budget: int
    scratch: str | None = None
    spherical: bool = False
    threads: int = 1
    device: str = "cpu"


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


class ShardVectors:
    """Vectors float16[n, d] in order of clip index, and raw rows before they are transformed.

    The peak of memory is the raw rows (2 bytes a number; 4 for float32 files), or the budget where
    that is less, plus 12 bytes a row for clip indices and labels, plus a few blocks a thread.

    Attributes (after `prepare`):
        dim: d.
        clips: int64[n].
        counts: int64[blocks] rows of each block.
        starts: int64[blocks + 1], the first row of each.
    """

    def __init__(self, spec: ShardSpec):
        self.spec = spec
        self.ready = False
        self._raw: feature_files.Rows | None = None
        # Then the result of a product depends on nothing but its operands and their shape. Several
        # blocks at once also use the cores better.
        prepare_process()
        self._pool = ThreadPoolExecutor(spec.threads) if spec.threads > 1 else None

    # -- raw rows ----------------------------------------------------------------------------

    def load(self) -> feature_files.Rows:
        """The raw rows, read from the files unless they still are in memory."""
        if self._raw is None:
            spec = self.spec
            start, stop = spec.blocks.clips(spec.first, spec.last)
            self._raw = feature_files.load(spec.features, start, stop, spec.budget, spec.scratch)
            self.ready = False
            self.counts = np.array(
                [int(self._raw.present[a:b].sum()) for a, b in self._slots()], np.int64
            )
            self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        return self._raw

    def survey(self) -> Survey:
        raw = self.load()
        return Survey(self.counts, raw.highest, raw.problems)

    def raw_blocks(self) -> Iterator[np.ndarray]:
        """Raw rows [rows, d] of every block that has some."""
        if self.ready:  # they have been replaced by vectors
            self._raw = None
        raw = self.load()
        for first, last in self._slots():
            block = raw.block(first, last)
            if len(block):
                yield block
            raw.buffer.release()

    def _slots(self) -> list[tuple[int, int]]:
        """Slot ranges of this shard's blocks."""
        spec = self.spec
        start = spec.blocks.clips(spec.first, spec.last)[0]
        ranges = (spec.blocks.clips(b, b + 1) for b in range(spec.first, spec.last))
        return [(a - start, b - start) for a, b in ranges]

    # -- vectors -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Replace raw rows by vectors, in place: a vector is never longer than its raw row."""
        if self.ready:
            return
        raw = self.load()
        transform = Transform.load(self.spec.out / "transform.npz")
        start = self.spec.blocks.clips(self.spec.first, self.spec.last)[0]
        self.dim = transform.dim
        self.clips = np.flatnonzero(raw.present) + start
        for number, (first, last) in enumerate(self._slots()):
            self.block(number)[:] = transform(raw.block(first, last))
            raw.buffer.release()
        raw.buffer.shrink(int(self.starts[-1]) * self.dim * 2)
        self.ready = True

    def block(self, number: int) -> np.ndarray:
        """The ``number``-th block of this shard, float16[n, d]: a view."""
        assert self._raw is not None
        shape = (int(self.counts[number]), self.dim)
        return self._raw.buffer.rows(int(self.starts[number]) * self.dim * 2, shape, np.float16)

    def each(self, work: Callable[[int, np.ndarray], Answer]) -> list[Answer]:
        """``work(number, block)`` of all blocks, on all threads; answers in order of blocks."""
        self.prepare()

        def one(number: int) -> Answer:
            answer = work(number, self.block(number))
            assert self._raw is not None
            at, length = int(self.starts[number]), int(self.counts[number])
            self._raw.buffer.release(at * self.dim * 2, length * self.dim * 2)
            return answer

        numbers = range(len(self.counts))
        if self._pool is None:
            return [one(number) for number in numbers]
        return list(self._pool.map(one, numbers))
