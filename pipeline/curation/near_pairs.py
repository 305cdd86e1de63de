"""Which clips of a cluster are near to each other: all pairs, by blocks of matrix products.

Within a cluster of n clips this is n²/2 products. What a task returns is no longer than its clips:
not the pairs, but for each clip that is near to another one the first clip of all that hang
together with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from pipeline.curation.exchange import Exchange, WindowRows, Windows
from pipeline.storage import Location

BLOCK_ROWS = 2048  # a block of cosines has 17 MB
LINKS = pa.schema([("clip", pa.int64()), ("first", pa.int64())])


def unit_rows(vectors: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """float32 [n, d], of length one in each space, which float16 is but nearly."""
    values = vectors.astype(np.float32)
    for left, right in pairwise(edges):
        lengths = np.linalg.norm(values[:, left:right], axis=1, keepdims=True)
        values[:, left:right] /= np.where(lengths > 0, lengths, 1)
    return values


def cosines(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """float32 [a, b], of each two rows the least cosine over all spaces.

    Args:
        first, second: float32 [a, d] and [b, d] (`unit_rows`); edges: columns between the spaces.
    """
    found = None
    for left, right in pairwise(edges):
        each = first[:, left:right] @ second[:, left:right].T
        found = each if found is None else np.minimum(found, each, out=found)
    assert found is not None
    return found


class Components:
    """Rows 0..n-1, and the first row of all that hang together with each."""

    def __init__(self, rows: int) -> None:
        self.first = np.arange(rows)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Args: int64 [m], rows that are near to each other, pair by pair."""
        if not len(left):
            return
        n = len(self.first)
        ones = np.ones(len(left), bool)
        graph = scipy.sparse.coo_array((ones, (self.first[left], self.first[right])), (n, n))
        count, label = connected_components(graph, directed=False)
        first = np.full(count, n)
        np.minimum.at(first, label, np.arange(n))
        self.first = first[label][self.first]


@dataclass(frozen=True)
class FindPairs:
    """Compares the clips of a window, or of two windows of one number; by the work's number."""

    exchange: Exchange
    work: np.ndarray  # int32 [n, 2]: the windows, the same twice for one alone
    pairs: np.ndarray  # int64 [n]: of each work
    least: float  # cosine of two clips that are near
    out: Location

    @classmethod
    def of(cls, exchange: Exchange, windows: Windows, least: float, out: Location) -> FindPairs:
        alone = np.flatnonzero(windows.pairs)
        crossed = [p for a, b in windows.split.tolist() for p in combinations(range(a, b + 1), 2)]
        across = np.array(crossed, np.int64).reshape(-1, 2)
        work = np.concatenate([np.stack([alone, alone], axis=1), across])
        sizes = windows.sizes
        pairs = [windows.pairs[alone], sizes[across[:, 0]] * sizes[across[:, 1]]]
        return cls(exchange, work.astype(np.int32), np.concatenate(pairs), least, out)

    def __call__(self, number: int) -> Mapping[str, int]:
        if not self._place(number).exists():
            first, second = self.work[number].tolist()
            with threadpool_limits(1, "blas"):
                if first == second:
                    links = self._within(self.exchange.read(first))
                else:
                    links = self._between(self.exchange.read(first), self.exchange.read(second))
            self._place(number).write_table(links)
        return {"done": int(self.pairs[number])}

    def links(self) -> Iterator[pa.Table]:
        """What the works found, one after another."""
        for number in range(len(self.work)):
            yield self._place(number).read_table()

    def _within(self, rows: WindowRows) -> pa.Table:
        found = Components(len(rows.clips))
        changes = np.flatnonzero(np.diff(rows.numbers)) + 1
        for start, stop in pairwise([0, *changes.tolist(), len(rows.numbers)]):
            blocks = [*_blocks(start, stop)]
            for place, left in enumerate(blocks):
                for right in blocks[place:]:
                    self._compare(found, rows.vectors, left, right)
        return _links(found, rows.clips)

    def _between(self, first: WindowRows, second: WindowRows) -> pa.Table:
        """Of one number, in two windows."""
        clips = np.concatenate([first.clips, second.clips])
        vectors = np.concatenate([first.vectors, second.vectors])
        found, middle = Components(len(clips)), len(first.clips)
        for left in _blocks(0, middle):
            for right in _blocks(middle, len(clips)):
                self._compare(found, vectors, left, right)
        return _links(found, clips)

    def _compare(self, found: Components, vectors: np.ndarray, left: slice, right: slice) -> None:
        if right.stop - left.start < 2:
            return
        edges = self.exchange.edges
        x = unit_rows(vectors[left], edges)
        y = x if left == right else unit_rows(vectors[right], edges)
        near = cosines(x, y, edges) >= self.least
        if left == right:
            near = np.triu(near, 1)
        rows, columns = np.nonzero(near)
        found.join(left.start + rows, right.start + columns)

    def _place(self, number: int) -> Location:
        return self.out / f"links-{number:06d}.parquet"


def _blocks(start: int, stop: int) -> Iterator[slice]:
    for at in range(start, stop, BLOCK_ROWS):
        yield slice(at, min(at + BLOCK_ROWS, stop))


def _links(found: Components, clips: np.ndarray) -> pa.Table:
    joined = np.flatnonzero(found.first != np.arange(len(clips)))
    columns = [pa.array(clips[joined]), pa.array(clips[found.first[joined]])]
    return pa.table(columns, schema=LINKS)


def groups(links: Sequence[pa.Table], num_clips: int) -> np.ndarray:
    """int32 [N], the group of each clip that hangs together with others, else -1."""
    empty = LINKS.empty_table()
    joined = pa.concat_tables([empty, *links])
    ends = np.stack([joined["clip"].to_numpy(), joined["first"].to_numpy()])
    found = np.full(num_clips, -1, np.int32)
    clips, row = np.unique(ends, return_inverse=True)
    if not len(clips):
        return found
    left, right = row.reshape(ends.shape)
    graph = scipy.sparse.coo_array((np.ones(len(left), bool), (left, right)), (len(clips),) * 2)
    found[clips] = connected_components(graph, directed=False)[1]
    return found
