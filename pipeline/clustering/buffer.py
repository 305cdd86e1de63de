"""The memory of one shard: a flat buffer in RAM, or on local disk beyond a budget."""

from __future__ import annotations

import mmap
import tempfile

import numpy as np


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
