"""Remote files by range reads."""

from __future__ import annotations

import io
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs

from pipeline.clips.rejects import Reason, Reject, reject_for
from pipeline.storage import Location


class RangeReader:
    """A remote file as a file object: it reads ranges of whole blocks and keeps a few of them.

    Containers jump between their index, video and audio. With blocks a jump back costs nothing,
    and a small read does not become a request of its own.
    """

    SIZE = 1 << 20  # bytes of a block
    KEPT = 16

    def __init__(self, source: Location) -> None:
        try:
            info = source.info()
            if info.type == pyarrow.fs.FileType.NotFound:
                raise Reject(Reason.MISSING)
            if not info.is_file:
                raise Reject(Reason.UNREADABLE, "not a file")
            if info.size == 0:
                raise Reject(Reason.EMPTY_FILE)
            self._file = source.fs.open_input_file(source.path)
        except (OSError, pa.ArrowException) as error:
            raise reject_for(error, Reason.UNREADABLE) from error
        self._size = int(info.size)
        self._position = 0
        self._block = lru_cache(maxsize=self.KEPT)(self._read_block)
        self.requests = 0  # range reads so far

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self._size - self._position
        number, within = divmod(self._position, self.SIZE)
        if self._position >= self._size or size == 0:
            return b""
        data = self._block(number)[within : within + size]
        self._position += len(data)
        return data

    def close(self) -> None:
        self._block.cache_clear()
        self._file.close()

    def _read_block(self, number: int) -> bytes:
        self.requests += 1
        start = number * self.SIZE
        block = self._file.read_at(min(self.SIZE, self._size - start), start)
        if not block:
            raise OSError(f"storage returned nothing at byte {start} of {self._size}")
        return block
