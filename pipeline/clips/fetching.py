"""Files fetched from storage while others are decoded.

Decoding has one thread, in a process of its own. Threads of the worker read what the next files
need meanwhile, so that no decoder waits for a request that could have been made before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate

from pipeline.clips.decoding.byte_index import FIRST, WHOLE, ByteRange, joined
from pipeline.clips.decoding.decoder import MediaFile
from pipeline.objects import RemoteObject

THREADS = 16  # requests in flight of one task: 80 ms each at 5 ms a clip
# Bytes fetched and not yet decoded, of one task: 16 clips of large files, while a batch of decoded
# clips is as large.
BUFFER = 32 << 20
_TAIL = 1 << 19  # bytes at the end of a large file, for probing
Piece = tuple[int, bytes]  # offset, and what is there


@dataclass
class _Fetch:
    """What was asked of one file, under way."""

    file: MediaFile
    object: RemoteObject | None = None  # None: nothing to be fetched
    jobs: list[Future[list[Piece]]] = field(default_factory=list)
    cost: int = 0  # bytes asked for

    def wait(self, limit_s: float) -> MediaFile:
        """The file with what was fetched of it.

        Raises:
            Exception: storage failed.
        """
        if self.object is None:
            return self.file
        pieces = [piece for job in self.jobs for piece in job.result(limit_s)]
        return replace(
            self.file, size=self.object.size, etag=self.object.etag, fetched=tuple(pieces)
        )


def fetch_for_decoding(
    wanted: Sequence[tuple[MediaFile, Sequence[ByteRange]]], limit_s: float
) -> Iterator[MediaFile]:
    """The files, in order, each with these ranges of it as `fetched`, read ahead.

    A file of which a range cannot be had within `limit_s` comes as it was: whoever decodes it
    reads for himself, with more patience, and tells the reason.
    """
    last: _Fetch | None = None

    def start(pool: ThreadPoolExecutor, number: int) -> _Fetch:
        nonlocal last
        if last is not None and wanted[number] == wanted[number - 1]:
            return replace(last, cost=0)
        file, ranges = wanted[number][0], _affordable(joined(wanted[number][1]))
        if file.location.is_local or not ranges:
            last = _Fetch(file)
        else:
            source = RemoteObject(file.location, file.size, file.etag, patient=False)
            jobs = [pool.submit(_read, source, *each) for each in ranges]
            last = _Fetch(file, source, jobs, sum(stop - start for start, stop in ranges))
        return last

    return _ahead([file for file, _ in wanted], start, limit_s)


def fetch_for_probing(files: Sequence[MediaFile], limit_s: float) -> Iterator[MediaFile]:
    """The files, in order, small ones whole, of others what probing is likely to read."""

    def start(pool: ThreadPoolExecutor, number: int) -> _Fetch:
        file = files[number]
        if file.location.is_local:
            return _Fetch(file)
        source = RemoteObject(file.location, file.size, file.etag, patient=False)
        return _Fetch(file, source, [pool.submit(_head_and_tail, source)], FIRST + _TAIL)

    return _ahead(files, start, limit_s)


def _affordable(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """As many as the buffer holds: a batch may want more than that of one file."""
    total = accumulate(stop - start for start, stop in ranges)
    return [each for each, held in zip(ranges, total) if held <= BUFFER]


def _read(source: RemoteObject, start: int, stop: int) -> list[Piece]:
    return [(start, source.read(start, stop))]


def _head_and_tail(source: RemoteObject) -> list[Piece]:
    pieces = _read(source, 0, FIRST)
    size = source.size or 0
    if size > FIRST:
        pieces += _read(source, FIRST if size <= WHOLE else max(FIRST, size - _TAIL), size)
    return pieces


def _ahead(
    files: Sequence[MediaFile],
    start: Callable[[ThreadPoolExecutor, int], _Fetch],
    limit_s: float,
) -> Iterator[MediaFile]:
    """Start fetching in order, as far as the buffer reaches, and yield in order."""
    under_way: deque[_Fetch] = deque()
    pool = ThreadPoolExecutor(THREADS)
    answers = True
    try:
        for number, file in enumerate(files):
            while answers and number + len(under_way) < len(files):
                if under_way and sum(fetch.cost for fetch in under_way) >= BUFFER:
                    break
                ahead = number + len(under_way)
                try:
                    under_way.append(start(pool, ahead))
                except Exception:
                    under_way.append(_Fetch(files[ahead]))
            fetched = file
            if under_way:
                try:
                    fetched = under_way[0].wait(limit_s)
                except TimeoutError:
                    answers = False  # the other files need not wait as long
                except Exception:
                    pass  # whoever decodes it will tell
            yield fetched
            if under_way:
                under_way.popleft()
            if not answers:
                under_way.clear()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
