"""Names of files in order, however many: sorted runs go to scratch and are merged as they are read.

On storage a name is the bytes of its code points, with those that stand for no UTF-8: they sort as
Python sorts the names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import Location
from pipeline.telemetry.console import say

NAMES_PER_RUN = 2**20  # 0.2 GB while they are sorted
NAMES_PER_BLOCK = 2**15  # of each run one block is held: 3 MB where names have 100 characters
_FILES, _TELL_EVERY_S = 8, 30.0  # blocks written at once; a listing of minutes says how far it is


class SortedNames:
    """A list of names that any number of threads add to. Then it is iterated, once or often.

    Args:
        scratch: folder for what does not fit into memory; None: all is held.
        keep: which names count, None: all.
    """

    def __init__(
        self, scratch: Location | None = None, keep: Callable[[str], bool] | None = None
    ) -> None:
        self._scratch, self._keep = scratch, keep
        self._held: list[str] = []
        self._runs: list[list[Location]] = []  # blocks of each, in order
        self._lock, self._told_s, self._count = Lock(), time.monotonic(), 0

    def add(self, names: Iterable[str]) -> None:
        """Names that no other call adds."""
        kept = [name for name in names if self._keep is None or self._keep(name)]
        with self._lock:
            self._held += kept
            self._count += len(kept)
            if self._scratch is not None and len(self._held) >= NAMES_PER_RUN:
                self._spill(self._scratch)
            if time.monotonic() - self._told_s > _TELL_EVERY_S:
                self._told_s = time.monotonic()
                say(f"listed {self._count:,} files so far")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[str]]:
        """All names in order, some ten thousand at a time."""
        if self._runs:
            assert self._scratch is not None
            self._spill(self._scratch)
            yield from map(_decoded, _merged(self._runs))
            return
        self._held.sort()
        for start in range(0, len(self._held), NAMES_PER_BLOCK):
            yield self._held[start : start + NAMES_PER_BLOCK]

    def _spill(self, scratch: Location) -> None:
        if not self._held:
            return
        self._held.sort()
        run = len(self._runs)

        def write(start: int) -> Location:
            place = scratch / f"names-{run:05d}-{start // NAMES_PER_BLOCK:05d}.parquet"
            names = self._held[start : start + NAMES_PER_BLOCK]
            data = [name.encode("utf-8", "surrogatepass") for name in names]
            place.write_table(pa.table({"name": pa.array(data, pa.binary())}), len(data))
            return place

        with ThreadPoolExecutor(_FILES) as pool:
            self._runs.append([*pool.map(write, range(0, len(self._held), NAMES_PER_BLOCK))])
        self._held.clear()


def _decoded(names: pa.Array) -> list[str]:
    return [name.decode("utf-8", "surrogatepass") for name in names.to_pylist()]


def _merged(runs: list[list[Location]]) -> Iterator[pa.Array]:
    """The runs' names in order: each step takes from all blocks what no later block precedes."""
    waiting = [iter(run) for run in runs]
    blocks = [_block(next(blocks)) for blocks in waiting]
    while blocks:
        bound = min(block[-1].as_py() for block in blocks)
        taken = [_count_to(block, bound) for block in blocks]
        names = pa.concat_arrays([block.slice(0, n) for block, n in zip(blocks, taken)])
        yield names.take(pc.array_sort_indices(names))
        left = []
        for block, n, more in zip(blocks, taken, waiting):
            if n < len(block):
                left.append((block.slice(n), more))
            elif (place := next(more, None)) is not None:
                left.append((_block(place), more))
        blocks, waiting = [block for block, _ in left], [more for _, more in left]


def _block(place: Location) -> pa.Array:
    return place.read_table()["name"].combine_chunks()


def _count_to(block: pa.Array, bound: bytes) -> int:
    """How many names of a sorted block are not behind `bound`."""
    low, high = 0, len(block)
    while low < high:
        middle = (low + high) // 2
        if block[middle].as_py() <= bound:
            low = middle + 1
        else:
            high = middle
    return low
