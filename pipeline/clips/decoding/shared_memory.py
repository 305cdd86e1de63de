"""Arrays from a decoding process to its worker, through memory that both map."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np

# Where in shared memory an array lies: its shape, dtype and offset in bytes.
Place = tuple[tuple[int, ...], str, int]


class SharedMemory:
    """One end of the memory, made or, by `handle`, inherited; grows with one question's answers.

    It has no name, so that nothing is left behind when both ends are gone.
    """

    def __init__(self, handle: int | None = None) -> None:
        if handle is not None:
            self.handle = handle
        elif hasattr(os, "memfd_create"):
            self.handle = os.memfd_create("clips")
        else:
            with tempfile.TemporaryFile() as stream:
                self.handle = os.dup(stream.fileno())
        self._view: mmap.mmap | None = None
        self._end = 0

    def reset(self) -> None:
        """Write from the beginning again."""
        self._end = 0

    def write(self, array: np.ndarray | None) -> Place | None:
        """Copy an array to behind the one before; None stands for no array."""
        return None if array is None else self._written(array)

    def write_bytes(self, data: bytes) -> Place:
        """Likewise, for `read_bytes`."""
        return self._written(np.frombuffer(data, np.uint8))

    def _written(self, array: np.ndarray) -> Place:
        place = (array.shape, array.dtype.str, self._end)
        self._end += -(-array.nbytes // 64) * 64
        size = os.fstat(self.handle).st_size
        if self._end > size:
            os.ftruncate(self.handle, max(2 * size, self._end, 1 << 20))
        self._mapped(*place)[...] = array
        return place

    def read(self, place: Place | None) -> np.ndarray | None:
        """A copy, since the next question's answers overwrite it."""
        return None if place is None else self._mapped(*place).copy()

    def read_bytes(self, place: Place) -> bytes:
        return self._mapped(*place).tobytes()

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _mapped(self, shape: tuple[int, ...], dtype: str, offset: int) -> np.ndarray:
        size = os.fstat(self.handle).st_size
        if self._view is None or len(self._view) < size:
            self._view = mmap.mmap(self.handle, size)
        return np.ndarray(shape, dtype, self._view, offset)
