"""Vectors on their way from tasks that read ranges of clips to tasks that want what is alike.

Every clip has a number: its cluster, or its group of duplicates. The clips of a number lie all over
the features. So each range of clips is read once and written as one file, sorted by windows. A
window is what a task holds at once: whole numbers, or a part of one that has too many clips. A task
then reads its slice of every range's file.

    range-000000   for each window with clips, in order: clips int64 [n], numbers int32 [n],
                   vectors float16 [n, d], and a digest of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow.fs
import ray

from pipeline.curation.clustered_clips import VectorSpace
from pipeline.errors import UserError
from pipeline.manifest import digest_of
from pipeline.storage import Location

RANGE_CLIPS = 1 << 16  # with two modalities of 512 numbers 134 MB of features
WINDOW_ROWS = 1 << 15  # about; up to twice as many where numbers are whole
_DIGEST = 32  # bytes
_REQUESTS = 16  # slices read at once


class WindowRows(NamedTuple):
    """The clips of a window, by number and then by index."""

    clips: np.ndarray  # int64 [n]
    numbers: np.ndarray  # int32 [n]
    vectors: np.ndarray  # float16 [n, d], of each space side by side


@dataclass(frozen=True)
class Windows:
    """How numbered clips are divided.

    Attributes:
        of_clip: int32 [N], -1: none.
        sizes: int64 [w] clips in each.
        split: int32 [s, 2], first and last window of every number that is split.
        pairs: int64 [w] pairs of clips of one number in each.
    """

    of_clip: np.ndarray
    sizes: np.ndarray
    split: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, rows: int = WINDOW_ROWS) -> Windows:
        """
        Args:
            numbers: int32 [N], -1: takes no part; rows: of a window, about.
        """
        has = np.flatnonzero(numbers >= 0)
        counts = np.bincount(numbers[has], minlength=1)
        is_long = counts > rows
        whole = np.where(is_long, 0, counts)
        window = (np.cumsum(whole) - whole) // rows
        parts = np.where(is_long, -(-counts // rows), 0)
        first_long = window[whole > 0].max(initial=-1) + 1 + np.cumsum(parts) - parts
        window = np.where(is_long, first_long, window)
        by_number = has[np.argsort(numbers[has], kind="stable")]
        number = numbers[by_number]
        rank = np.arange(len(has)) - (np.cumsum(counts) - counts)[number]
        of_clip = np.full(len(numbers), -1, np.int32)
        of_clip[by_number] = window[number] + np.where(is_long[number], rank // rows, 0)
        sizes = np.bincount(of_clip[has], minlength=1)
        pairs = sizes * (sizes - 1) // 2
        pairs[: int(first_long[0]) if len(first_long) else 0] = 0
        np.add.at(pairs, window[whole > 0], (whole * (whole - 1) // 2)[whole > 0])
        split = np.stack([first_long, first_long + parts - 1], axis=1)[is_long]
        return cls(of_clip, sizes, split.astype(np.int32), pairs)

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Exchange:
    """Files of ranges, for windows that are known beforehand."""

    folder: Location
    spaces: Sequence[VectorSpace]
    num_clips: int
    counts: np.ndarray  # int32 [ranges, windows]

    @classmethod
    def of(cls, folder: Location, spaces: Sequence[VectorSpace], windows: Windows) -> Exchange:
        number = len(windows.of_clip)
        ranges = [windows.of_clip[a : a + RANGE_CLIPS] for a in range(0, number, RANGE_CLIPS)]
        counts = [np.bincount(some[some >= 0], minlength=len(windows)) for some in ranges]
        return cls(folder, spaces, number, np.array(counts, np.int32))

    @property
    def edges(self) -> np.ndarray:
        """Columns between the spaces."""
        return np.cumsum([0, *(space.width for space in self.spaces)])

    def write(self, number: int, numbers: np.ndarray, windows: np.ndarray) -> None:
        """A range's file, unless it is there.

        Args:
            numbers, windows: int32 of the range's clips.
        """
        place, start = self._place(number), number * RANGE_CLIPS
        rows = np.flatnonzero(windows >= 0)
        if not len(rows) or place.exists():
            return
        stop = min(start + RANGE_CLIPS, self.num_clips)
        vectors = [space.read(start + rows, start, stop) for space in self.spaces]
        order = np.lexsort((rows, numbers[rows], windows[rows]))
        rows = rows[order]
        values = np.concatenate(vectors, axis=1)[order]
        pieces = []
        for a, b in pairwise([0, *np.cumsum(self.counts[number]).tolist()]):
            if a < b:
                some = rows[a:b]
                parts = ((start + some).astype(np.int64), numbers[some], values[a:b])
                data = b"".join(part.tobytes() for part in parts)
                pieces += [data, digest_of(data).encode()]
        place.write_bytes(b"".join(pieces))

    def read(self, window: int) -> WindowRows:
        """Raises UserError if a file is not as it was written."""
        some = np.flatnonzero(self.counts[:, window])
        with ThreadPoolExecutor(_REQUESTS) as pool:
            parts = list(pool.map(lambda number: self._slice(int(number), window), some))
        clips, numbers, vectors = (np.concatenate(each) for each in zip(*parts))
        order = np.lexsort((clips, numbers))
        return WindowRows(clips[order], numbers[order], vectors[order])

    def _slice(self, number: int, window: int) -> WindowRows:
        width = int(self.edges[-1])
        sizes = self.counts[number].astype(np.int64)
        lengths = np.where(sizes > 0, sizes * (12 + 2 * width) + _DIGEST, 0)
        start, length, n = int(lengths[:window].sum()), int(lengths[window]), int(sizes[window])

        def fetched(fs: pyarrow.fs.FileSystem, path: str) -> bytes:
            with fs.open_input_file(path) as stream:
                return stream.read_at(length, start)

        place = self._place(number)
        data = place.patiently(fetched)
        if digest_of(data[:-_DIGEST]).encode() != data[-_DIGEST:]:
            raise UserError(
                f"{place} has changed since it was written: delete {self.folder} and give the same "
                "command again"
            )
        clips = np.frombuffer(data, np.int64, n)
        numbers = np.frombuffer(data, np.int32, n, 8 * n)
        vectors = np.frombuffer(data, np.float16, n * width, 12 * n)
        return WindowRows(clips, numbers, vectors.reshape(n, width))

    def _place(self, number: int) -> Location:
        return self.folder / f"range-{number:06d}"


@dataclass(frozen=True)
class WriteRanges:
    """Writes the file of a range, by its number."""

    exchange: Exchange
    assigned: Sequence[ray.ObjectRef]  # by range: numbers and windows of its clips

    @classmethod
    def of(cls, exchange: Exchange, numbers: np.ndarray, windows: Windows) -> WriteRanges:
        starts = range(0, len(numbers), RANGE_CLIPS)
        slices = [slice(at, at + RANGE_CLIPS) for at in starts]
        return cls(exchange, [ray.put((numbers[s], windows.of_clip[s])) for s in slices])

    def __call__(self, number: int) -> Mapping[str, int]:
        numbers, windows = ray.get(self.assigned[number])
        self.exchange.write(number, numbers, windows)
        return {"done": len(numbers)}
