"""Which bytes of a file a clip needs, learnt when the file is probed, for reading it remotely."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

ByteRange = tuple[int, int]  # start and stop

WHOLE = 2 << 20  # a file up to this size is read whole: more requests would take longer
FIRST = 1 << 20  # bytes to read of a file of unknown size
_MOST = 16 << 20  # a clip that spans more is not fetched ahead: its tracks lie apart
_NEAR = 1 << 17  # ranges that are closer than this are read as one
_STEPS = 12  # parts of a clip's window of which the bytes are known apart
STEP_S = 0.25  # of media time, that an index tells apart
_AHEAD_S = 0.4  # decoders start before what is shown, and packets are not in the order of display
_BUFFER = 1 << 16  # libavformat reads on to the end of its buffer


@dataclass(frozen=True)
class ByteIndex:
    """Where in a file its media times lie: those from ``start_s + i * STEP_S`` on begin at
    ``first[i]``, and those until then end at ``stop[i]``.
    """

    head_bytes: int  # in front of the file, that opening reads
    tail_bytes: int  # and at its end
    start_s: float  # media time
    first: np.ndarray = field(repr=False)  # int64 [steps]
    stop: np.ndarray = field(repr=False)  # int64 [steps]

    def between(self, start_s: float, end_s: float) -> ByteRange:
        """The bytes of a stretch of media time."""
        last = len(self.first) - 1
        begin = min(max(math.floor((start_s - _AHEAD_S - self.start_s) / STEP_S), 0), last)
        end = min(max(math.ceil((end_s + _AHEAD_S - self.start_s) / STEP_S), 0), last)
        return int(self.first[begin]), int(self.stop[end])

    def columns(self, start_s: float, end_s: float) -> dict[str, Any]:
        """For the row of a clip with this window; `wanted_ranges` reads it."""
        edges = np.linspace(start_s, end_s, _STEPS + 1).tolist()
        parts = [self.between(*edge) for edge in pairwise(edges)]
        kib = [first >> 10 for first, _ in parts] + [-(-stop >> 10) for _, stop in parts]
        return {"head_bytes": self.head_bytes, "tail_bytes": self.tail_bytes, "parts_kib": kib}


def wanted_ranges(row: Mapping[str, Any], start_s: float, end_s: float) -> tuple[ByteRange, ...]:
    """What decoding this stretch of media time reads, by a row of the clips table.

    Empty where that is not known.
    """
    size = row["size"]
    if size is None:
        return ((0, FIRST),)
    if size <= WHOLE:
        return ((0, size),)
    kib = row["parts_kib"]
    if kib is None:
        return ()
    length = (row["end_s"] - row["start_s"]) / _STEPS
    begin, end = ((t - row["start_s"]) / length if length > 0 else 0 for t in (start_s, end_s))
    first = kib[min(max(math.floor(begin), 0), _STEPS - 1)] << 10
    stop = kib[_STEPS + min(max(math.floor(end), 0), _STEPS - 1)] << 10
    ranges = [(0, row["head_bytes"]), (size - row["tail_bytes"], size)]
    if stop - first <= _MOST:
        ranges.append((first, min(stop + _BUFFER, size)))
    return tuple(ranges)


def joined(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Sorted, without empty ones; those that touch or nearly do are one."""
    made: list[ByteRange] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if made and start <= made[-1][1] + _NEAR:
            start, stop = made[-1][0], max(made.pop()[1], stop)
        made.append((start, stop))
    return made


def head_and_tail(reads: Sequence[ByteRange], size: int) -> tuple[int, int]:
    """How many bytes in front and at the end opening has read, which gave these reads."""
    head, *others = joined(reads)
    tail = [start for start, _ in others if start > size - min(_MOST, size // 4)]
    return head[1] if head[0] == 0 else 0, size - min(tail, default=size)
