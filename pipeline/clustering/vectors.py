"""The vectors of one shard: read from feature files, transformed in place, handed out by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.clustering import inputs
from pipeline.clustering.assign import prepare_process
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.transform import Transform
from pipeline.storage import Location

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ShardSpec:
    """What a shard actor is built from, and rebuilt from after its death."""

    features: tuple[Location, ...]  # one folder per modality
    blocks: ClipBlocks  # of the whole clustering
    first: int  # this shard has the blocks [first, last)
    last: int
    out: Location  # the clustering's folder, where the transform's file is
    budget: int  # bytes of memory for vectors; beyond it they lie in the temporary folder
    spherical: bool = False  # whether scores are inner products
    threads: int = 1  # each works on a block of its own
    device: str = "cpu"  # or cuda


class ShardVectors:
    """Vectors float16[n, d] in order of clip index, and raw rows before they are transformed.

    The peak of memory is the raw rows (2 bytes a number; 4 for float32 files), or the budget where
    that is less, plus 12 bytes a row for clip indices and labels, plus a few blocks a thread.

    Attributes:
        counts: int64[blocks] rows of each block, after `load`.
        dim: d, after `prepare`.
        clips: int64[n], after `prepare`.
    """

    def __init__(self, spec: ShardSpec):
        self.spec = spec
        self._ready = False
        self._raw: inputs.Rows | None = None
        ranges = [spec.blocks.clips(b, b + 1) for b in range(spec.first, spec.last)]
        self._start = ranges[0][0]
        # Ranges of clip indices of the blocks, counted from the shard's first.
        self._slots = [(a - self._start, b - self._start) for a, b in ranges]
        # Then the result of a product depends on nothing but its operands and their shape. Several
        # blocks at once also use the cores better.
        prepare_process()
        self._pool = ThreadPoolExecutor(spec.threads) if spec.threads > 1 else None

    def load(self) -> inputs.Rows:
        """The raw rows, read from the files unless they still are in memory."""
        if self._raw is None:
            spec, stop = self.spec, self._start + self._slots[-1][1]
            raw = inputs.load(spec.features, self._start, stop, spec.budget)
            self._raw, self._ready = raw, False
            self.counts = np.array([raw.present[a:b].sum() for a, b in self._slots], np.int64)
            self._starts = np.concatenate([[0], np.cumsum(self.counts)]).tolist()
        return self._raw

    def raw_blocks(self) -> Iterator[np.ndarray]:
        """Raw rows [rows, d] of every block that has some."""
        if self._ready:  # they have been replaced by vectors
            self._raw = None
        raw = self.load()
        for first, last in self._slots:
            block = raw.block(first, last)
            if len(block):
                yield block
            raw.buffer.release()

    def prepare(self) -> None:
        """Replace raw rows by vectors, in place: a vector is never longer than its raw row."""
        raw = self.load()
        if self._ready:
            return
        transform = Transform.loads((self.spec.out / "transform.npz").read_bytes())
        self.dim = transform.dim
        self.clips = np.flatnonzero(raw.present) + self._start
        for number, (first, last) in enumerate(self._slots):
            self.block(number)[:] = transform(raw.block(first, last))
            raw.buffer.release()
        raw.buffer.shrink(self._starts[-1] * self.dim * 2)
        self._ready = True

    def place(self, number: int) -> slice:
        """The rows of the ``number``-th block of this shard."""
        return slice(self._starts[number], self._starts[number + 1])

    def block(self, number: int) -> np.ndarray:
        """The ``number``-th block of this shard, float16[n, d]: a view."""
        shape = (int(self.counts[number]), self.dim)
        return self.load().buffer.rows(self._starts[number] * self.dim * 2, shape, np.float16)

    def each(self, work: Callable[[slice, np.ndarray], Answer]) -> list[Answer]:
        """``work(rows, block)`` of all blocks, on all threads; answers in order of blocks."""
        self.prepare()

        def one(number: int) -> Answer:
            block = self.block(number)
            answer = work(self.place(number), block)
            self.load().buffer.release(self._starts[number] * self.dim * 2, block.nbytes)
            return answer

        run = map if self._pool is None else self._pool.map
        return list(run(one, range(len(self.counts))))
