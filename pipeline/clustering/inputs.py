"""A shard's rows of the feature files, in memory or mapped from a temporary file."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.clustering.feature_files import batches, layout
from pipeline.storage import Location

_SHOWN = 10  # clip indices named in a message


class Buffer:
    """Bytes that are read and written as rows of a matrix, at chosen offsets.

    Within the budget the pages are private memory, touched only where written. Beyond it they are
    a mapped temporary file without a name, gone with the process; `release` then gives the pages
    back to the page cache, so that a pass over the data keeps only the current block resident.

    Args:
        size: bytes.
        budget: bytes that may be held in memory.
    """

    def __init__(self, size: int, budget: int):
        self.size = max(size, 1)
        self.on_disk = size > budget
        if self.on_disk:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as we)
            self._file.truncate(self.size)
            self._map = mmap.mmap(self._file.fileno(), self.size)
        else:
            self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def rows(self, offset: int, shape: tuple[int, int], dtype: np.dtype | type) -> np.ndarray:
        """A writable view of ``shape`` at ``offset`` bytes."""
        count = shape[0] * shape[1]
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)

    def release(self, offset: int = 0, length: int | None = None) -> None:
        """Drop resident pages of a file, all or those within a range; memory is left alone."""
        if self.on_disk:
            start = offset // mmap.PAGESIZE * mmap.PAGESIZE
            length = self.size - start if length is None else offset + length - start
            if length > 0:
                self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def shrink(self, size: int) -> None:
        """Give back everything from ``size`` bytes on."""
        start = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if start >= self.size:
            return
        if self.on_disk:
            # The mapping stays as long as it was; pages past the end of the file are never read.
            self.release()
            self._file.truncate(max(start, 1))
        else:
            self._map.madvise(mmap.MADV_DONTNEED, start, self.size - start)


@dataclass
class Rows:
    """Raw features of a shard, one slot per clip index, and which slots are filled."""

    present: np.ndarray  # bool[slots]
    buffer: Buffer  # rows of ``dim`` numbers of ``dtype``, one per slot
    dim: int
    dtype: np.dtype
    problems: list[str]  # sentences about rows that cannot be clustered, empty if all is well
    highest: float  # largest absolute value, 0.0 without rows

    def block(self, first: int, last: int) -> np.ndarray:
        """[rows, dim] of the filled slots among [first, last); a copy."""
        offset = first * self.dim * self.dtype.itemsize
        slots = self.buffer.rows(offset, (last - first, self.dim), self.dtype)
        return slots[self.present[first:last]]


def load(features: Sequence[Location], start: int, stop: int, budget: int) -> Rows:
    """Fill the slots [start, stop) from one folder, or from several joined side by side.

    Several modalities are L2-normalised each before they are joined, so that neither outweighs
    the other, and a clip that lacks one of them has no joint features.

    Args:
        budget: bytes of memory for the rows; beyond it they lie on local disk.
    """
    dims, dtypes = zip(*map(layout, features))
    joint, dim, slots = len(dims) > 1, sum(dims), stop - start
    dtype = np.dtype(np.float16) if joint else dtypes[0]
    buffer = Buffer(slots * dim * dtype.itemsize, budget)
    rows = buffer.rows(0, (slots, dim), dtype)
    present = np.ones(slots, bool)
    highest, problems, column = 0.0, [], 0
    for folder, width in zip(features, dims):
        seen = np.zeros(slots, bool)
        bad: list[int] = []
        twice: list[int] = []
        for index, values in batches(folder, start, stop):
            order = np.argsort(index, kind="stable")
            index, values = index[order], values[order]
            finite = np.isfinite(values).all(axis=1)
            bad += index[~finite].tolist()
            slot = index - start
            repeated = seen[slot] | np.concatenate([[False], slot[1:] == slot[:-1]])
            twice += index[repeated].tolist()
            seen[slot] = True
            values = np.where(finite[:, None], values, 0)
            rows[slot, column : column + width] = unit(values) if joint else values
            highest = max(highest, float(np.abs(values).max()))
            buffer.release()
        for clips, what, remedy in (
            (bad, "have NaN or infinite features", "embed them again or leave them out"),
            (twice, "occur more than once", "remove stale feature files"),
        ):
            if clips:
                shown = ", ".join(map(str, sorted(clips)[:_SHOWN])) + ", …" * (len(clips) > _SHOWN)
                found = f"{len(clips)} clips {what} in {folder}: clip_index {shown}"
                problems.append(f"{found}; {remedy}")
        present &= seen
        column += width
    return Rows(present, buffer, dim, dtype, problems, 1.0 if joint else highest)


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; a row of zeros stays."""
    values = np.asarray(values, np.float64)
    norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return values / np.where(norms > 0, norms, 1.0)
