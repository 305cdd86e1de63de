"""Files whose clock starts anew: recordings joined byte by byte, and chained Ogg.

Each piece is a whole file in a range of bytes. They are found by what their containers repeat at a
beginning: Ogg a page that begins a stream, MPEG transport and program streams a clock that jumps
back. libavformat reads on across such places and mixes both clocks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

_CHUNK = 8 << 20  # bytes that are searched at once
_OVERLAP = 512  # bytes read beyond, so that nothing is missed where two chunks meet
_WHOLE = 16 << 20  # bytes up to which all of a file is searched
_SAMPLES = 16  # places of a larger file at which its clock is read first
_SAMPLE = 1 << 18  # bytes of each
_EDGE = 1 << 16  # bytes at either end of an Ogg file in which its streams show

_BACK_S = 1.0  # by which a clock that starts anew lies behind
_TICKS = 90_000  # a second, of the clocks of MPEG systems (ISO/IEC 13818-1, 2.4.2)
_WRAP_S = (1 << 33) / _TICKS  # they count so far, and go on at 0

# A page of Ogg (RFC 3533, 6): flags, of which 2 begins a stream, and the stream's number.
_PAGE = re.compile(rb"OggS\x00([\x00-\x07]).{8}(.{4})", re.DOTALL)
# A pack header of a program stream: MPEG-2 (13818-1, 2.5.3.3) or MPEG-1 (11172-1, 2.4.3.2).
_PACK = re.compile(rb"\x00\x00\x01\xba([\x20-\x2f\x40-\x7f].{4})", re.DOTALL)


class Bytes(Protocol):
    """A file as it is searched."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int: ...

    def read(self, size: int = -1) -> bytes: ...

    def close(self) -> None: ...


class _Clock(NamedTuple):
    """A clock reading."""

    offset: int  # of its packet
    begin: int  # where a piece that begins with it begins
    stream: int
    seconds: float


def has_pieces(format_name: str) -> bool:
    """Whether files of a format (libavformat's name) may hold several pieces."""
    return format_name == "ogg" or format_name in _CLOCKS


def piece_starts(file: Bytes, size: int, format_name: str) -> list[int]:
    """The bytes at which the pieces of a file of `size` bytes begin; [0] for most files."""
    if format_name == "ogg":
        return _ogg_starts(file, size)
    clocks = _CLOCKS[format_name]
    if size > _WHOLE:
        places = np.linspace(0, size - _SAMPLE, _SAMPLES).astype(int).tolist()
        sampled = [clock for place in places for clock in clocks(_at(file, place, _SAMPLE), place)]
        if not _restarts(sampled):
            return [0]
    return [0, *_restarts([c for place, data in _chunks(file, size) for c in clocks(data, place)])]


def _at(file: Bytes, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _chunks(file: Bytes, size: int) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, size, _CHUNK):
        parts, left = [], _CHUNK + _OVERLAP
        file.seek(offset)
        while left > 0 and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
        yield offset, b"".join(parts)


def _ogg_starts(file: Bytes, size: int) -> list[int]:
    """Where streams begin after pages that begin none."""
    head, tail = _at(file, 0, _EDGE), _at(file, max(0, size - _EDGE), _EDGE)
    streams = {page[2] for page in _PAGE.finditer(head) if page[1][0] & 2}
    if all(page[2] in streams for page in _PAGE.finditer(tail)) and size > _EDGE:
        return [0]
    starts, last, begins = [], -1, False
    for offset, data in _chunks(file, size):
        for page in _PAGE.finditer(data):
            at = offset + page.start()
            if at <= last:
                continue
            last, before, begins = at, begins, bool(page[1][0] & 2)
            if begins and not before:
                starts.append(at)
    return [0, *starts[1:]]


def _restarts(clocks: list[_Clock]) -> list[int]:
    """Where clocks jump back; they may be those of several programmes."""
    last = {clock.stream: clock.offset for clock in clocks}
    starts: list[int] = []
    now: dict[int, float] = {}
    reached = -1
    for clock in clocks:
        if clock.offset <= reached:
            continue
        reached = clock.offset
        before = now.get(clock.stream)
        if before is None and all(last[stream] < clock.offset for stream in now):
            before = max(now.values(), default=None)  # another recording, with other numbers
        if before is not None and _BACK_S < before - clock.seconds < _WRAP_S - 3600:
            starts.append(clock.begin)
            now.clear()
        now[clock.stream] = clock.seconds
    return starts


def _transport_clocks(data: bytes, offset: int) -> list[_Clock]:
    """The programme clock references of a transport stream (13818-1, 2.4.3.4)."""
    clocks: list[_Clock] = []
    array = np.frombuffer(data, np.uint8)
    place, table = 0, -1
    while (step := _packet_step(array[place:])) is not None:
        first, length = step
        rows = array[place + first :]
        rows = rows[: len(rows) // length * length].reshape(-1, length)
        lost = np.flatnonzero(rows[:, 0] != 0x47)
        if len(lost):
            rows = rows[: max(0, lost[0] - 1)]  # the one before is cut short by what follows
        head = rows[:, :11].astype(np.int64)
        number = (head[:, 1] & 0x1F) << 8 | head[:, 2]
        flagged = ((head[:, 3] & 0x20) > 0) & ((head[:, 5] & 0x10) > 0)
        has_clock = flagged & (head[:, 4] >= 7)
        count = head[:, 6] << 25 | head[:, 7] << 17 | head[:, 8] << 9 | head[:, 9] << 1
        for row in np.flatnonzero(has_clock | (number == 0)).tolist():
            at = offset + place + first + row * length
            if number[row] == 0:
                table = at  # a programme association table: what follows can be understood
            else:
                begin = table if table >= 0 else at
                clocks.append(_Clock(at, begin, int(number[row]), int(count[row]) / _TICKS))
                table = -1
        place += first + (len(rows) * length or 1)
        table = -1 if len(lost) else table
    return clocks


def _packet_step(array: np.ndarray) -> tuple[int, int] | None:
    """Where packets begin, and how long they are: plain, with time codes, or with parity bytes."""
    for length in (188, 192, 204):
        if len(array) >= 5 * length:
            aligned = (array[: 5 * length].reshape(5, length) == 0x47).all(axis=0)
            if aligned.any():
                return int(aligned.argmax()), length
    # Lost: on to where bytes repeat again.
    for first in range(188, min(len(array) - 5 * 204, 1 << 16), 188):
        found = _packet_step(array[first : first + 5 * 204])
        if found is not None:
            return first + found[0], found[1]
    return None


def _program_clocks(data: bytes, offset: int) -> list[_Clock]:
    """The system clock references of a program stream."""
    clocks = []
    for pack in _PACK.finditer(data):
        a, b, c, d, e = pack[1]
        if a & 0x40:
            count = (a >> 3 & 7) << 30 | (a & 3) << 28 | b << 20
            count |= (c >> 3) << 15 | (c & 3) << 13 | d << 5 | e >> 3
        else:
            count = (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
        at = offset + pack.start()
        clocks.append(_Clock(at, at, 0, count / _TICKS))
    return clocks


_CLOCKS: dict[str, Callable[[bytes, int], list[_Clock]]] = {
    "mpegts": _transport_clocks,
    "mpeg": _program_clocks,
}
