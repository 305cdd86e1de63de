"""Remote files by range reads."""

from __future__ import annotations

import io
from collections import OrderedDict

import pyarrow as pa
import pyarrow.fs

from pipeline.clips.decoding.exceptions import reject_for
from pipeline.clips.rejects import Reason, Reject
from pipeline.storage import Location


class RangeReader(io.RawIOBase):
    """A remote file as a file object: range reads of whole blocks, of which it keeps a few.

    Containers jump between their index, video and audio. With blocks a jump back costs nothing,
    and a small read does not become a request of its own.

    Attributes:
        requests: range reads so far.
    """

    SIZE = 1 << 20  # bytes of a block
    KEPT = 16

    def __init__(self, source: Location) -> None:
        super().__init__()
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
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.requests = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

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
        if not self.closed:
            self._blocks.clear()
            if hasattr(self, "_file"):
                self._file.close()
        super().close()

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            self.requests += 1
            start = number * self.SIZE
            block = self._file.read_at(min(self.SIZE, self._size - start), start)
            if not block:
                raise OSError(f"storage returned nothing at byte {start} of {self._size}")
            self._blocks[number] = block
            if len(self._blocks) > self.KEPT:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return block
