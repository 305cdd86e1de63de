"""Remote files by range reads, after what was fetched ahead of decoding."""

from __future__ import annotations

import io
from bisect import bisect_right, insort
from collections import deque

import pyarrow as pa

from pipeline.clips.decoding.decoder import MediaFile, Source
from pipeline.clips.rejects import Reason, Reject, reject_for
from pipeline.objects import Changed, RemoteObject


class RangeReader:
    """A remote file as a file object that asks storage only for what was not fetched ahead.

    Containers jump between their index, video and audio. What was read stays for a while, so that
    a jump back costs nothing, and a small read does not become a request of its own. The longer
    the file is read on from one place, the more is read at once.

    Attributes:
        size: of the file, in bytes. requests: range reads so far.
        reads: what the demuxer has read, as [start, stop) in its order, joined where it reads on.
    """

    SIZE = 1 << 20  # bytes of the first read
    JUMP = 1 << 18  # and of the first one after a jump
    MOST = 1 << 22
    KEPT = 32 << 20  # bytes read here that are held
    _STEP = 1 << 16  # reads begin at its multiples, since demuxers search backwards, too

    def __init__(self, source: Source) -> None:
        assert not isinstance(source, bytes)
        file = source if isinstance(source, MediaFile) else MediaFile(source)
        self.requests = 0
        self.reads: list[tuple[int, int]] = []
        self._position = 0
        self._stretches = sorted(file.fetched)  # (offset, bytes), apart from each other
        self._own: deque[tuple[int, bytes]] = deque()  # those read here, oldest first
        self._last = 0, 0  # the last read of storage
        try:
            self._object = RemoteObject(file.location, file.size, file.etag)
        except (OSError, pa.ArrowException) as error:
            raise reject_for(error, Reason.UNREADABLE) from error
        if not self._stretches or file.size is None:
            self._fetch(0, self.SIZE)
        if self._object.size == 0:
            raise Reject(Reason.EMPTY_FILE)
        self.size = self._object.size or 0

    @property
    def etag(self) -> str | None:
        return self._object.etag

    @property
    def held(self) -> tuple[tuple[int, bytes], ...]:
        """What need not be read again, for `MediaFile.fetched`."""
        return tuple(self._stretches)

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer where a stretch that is held ends; b"" at the end."""
        if size < 0:
            size = self.size - self._position
        if self._position >= self.size or size == 0:
            return b""
        start, stretch = self._stretch(self._position)
        within = self._position - start
        data = stretch[within : within + size]
        self._note(self._position, len(data))
        self._position += len(data)
        return data

    def close(self) -> None:
        self._stretches.clear()
        self._own.clear()
        self._object.close()

    def _stretch(self, position: int) -> tuple[int, bytes]:
        """What is held and has this position, read now where nothing is."""
        after = bisect_right(self._stretches, position, key=lambda stretch: stretch[0])
        stop = self._stretches[after][0] if after < len(self._stretches) else self.size
        begin = 0
        if after:
            before = self._stretches[after - 1]
            begin = before[0] + len(before[1])
            if position < begin:
                return before
        start = max(begin, position - position % self._STEP)
        last_start, last_stop = self._last
        more = 2 * (last_stop - last_start) if start == last_stop else self.JUMP
        return self._fetch(start, min(stop, start + max(self.JUMP, min(more, self.MOST))))

    def _fetch(self, start: int, stop: int) -> tuple[int, bytes]:
        self.requests += 1
        try:
            data = self._object.read(start, stop)
        except Changed as error:
            raise Reject(Reason.CHANGED, str(error)) from error
        except (OSError, pa.ArrowException) as error:
            raise reject_for(error, Reason.UNREADABLE) from error
        if not data and self._object.size:
            what = f"storage returned nothing at byte {start} of {self._object.size}"
            raise Reject(Reason.UNREADABLE, what)
        self._last = start, start + len(data)
        stretch = start, data
        self._own.append(stretch)
        while sum(len(own) for _, own in self._own) > self.KEPT and len(self._own) > 1:
            self._stretches.remove(self._own.popleft())
        insort(self._stretches, stretch, key=lambda held: held[0])
        return stretch

    def _note(self, start: int, count: int) -> None:
        if self.reads and self.reads[-1][1] == start:
            start = self.reads.pop()[0]
        self.reads.append((start, self._position + count))


def check_size(source: Source, size: int) -> None:
    """Raise a reject if a file on a disk has another size than when it was indexed."""
    if isinstance(source, MediaFile) and source.size not in (None, size):
        raise Reject(Reason.CHANGED, f"it has {size:,} bytes, {source.size:,} when it was indexed")
