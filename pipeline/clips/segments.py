"""A long list of inputs is probed and added to the tables segment by segment.

A segment is as much as the driver holds at once. Its chunks are probed by tasks, each of which
leaves one file in scratch. After a kill the chunks that are there are not probed again: they are
found by what they hold, wherever the list has grown meanwhile.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import ray

from pipeline.clips.chunks import ProbeChunk, Probed, chunk_ends, chunk_names, read_rejects
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.known import KnownInputs
from pipeline.clips.outage import RecentLosses
from pipeline.clips.stream import run_numbered
from pipeline.clips.worklist import input_keys
from pipeline.config import Config
from pipeline.runtime import demands
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress

INPUTS_PER_SEGMENT = 131_072
_READERS = 32  # files of chunks that are read at once
_SUFFIX = ".arrows"

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Segment:
    """Rows of a worklist, in whole chunks."""

    rows: pa.Table
    ends: tuple[int, ...]  # of the chunks, the last of which is the number of rows
    places: tuple[Location, ...]  # where each chunk's result goes

    @property
    def keys(self) -> Iterator[np.ndarray]:
        """uint64 [rows of the chunk], keys of its inputs, of each chunk."""
        keys = input_keys(self.rows)
        return (keys[start:stop] for start, stop in pairwise([0, *self.ends]))

    def rejects(self) -> Iterator[pa.Table]:
        """Of each chunk."""
        return _ahead(read_rejects, self.places)

    def probed(self) -> Iterator[Probed]:
        """Of each chunk."""
        return _ahead(Probed.read, self.places)


def segments(tables: Iterable[pa.Table], scan: Location, config: Config) -> Iterator[Segment]:
    """All rows, in order; what is behind the last whole chunk of one segment begins the next."""

    def made(rows: pa.Table, ends: list[int]) -> Segment:
        names = chunk_names(rows, ends, config.index, config.clips.decoder)
        return Segment(rows, tuple(ends), tuple(scan / f"{name}{_SUFFIX}" for name in names))

    held: list[pa.Table] = []
    for table in tables:
        for start in range(0, len(table), INPUTS_PER_SEGMENT):
            held.append(table.slice(start, INPUTS_PER_SEGMENT))
            if sum(map(len, held)) < INPUTS_PER_SEGMENT:
                continue
            rows = pa.concat_tables(held).combine_chunks()
            ends = chunk_ends(rows["uri_key"].to_numpy()).tolist()
            if ends:
                yield made(rows.slice(0, ends[-1]), ends)
            held = [rows.slice(ends[-1] if ends else 0)]
    if sum(map(len, held)):
        rows = pa.concat_tables(held).combine_chunks()
        yield made(rows, [*chunk_ends(rows["uri_key"].to_numpy()).tolist(), len(rows)])


class Prober:
    """Probes segments, in tasks, under one line of progress. Use it in a ``with`` block.

    Args:
        scan: folder of the chunks' results; num_inputs: of all segments.
    """

    def __init__(self, known: KnownInputs, scan: Location, config: Config, num_inputs: int) -> None:
        self._known, self._config, self._left = known, config, num_inputs
        self._there = {place.name for place in scan.files(_SUFFIX)}
        allowed = config.clips.max_rejected
        self._losses = RecentLosses("index", allowed, INPUTS_PER_SEGMENT)
        self._progress: Progress | None = None

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)

    def probe(self, segment: Segment) -> None:
        """Probe the chunks that no earlier attempt finished, and those of files to be tried again.

        Raises:
            Outage: so many files did not come that their storage is away. Files that were away
                before do not count.
        """
        there = [n for n, place in enumerate(segment.places) if place.name in self._there]
        found = _ahead(read_rejects, [segment.places[n] for n in there])
        finished = {n for n, table in zip(there, found) if not self._known.tries_again(table)}
        missing = [n for n in range(len(segment.places)) if n not in finished]
        starts = [0, *segment.ends]
        rows = sum(starts[n + 1] - starts[n] for n in missing)
        self._expect(rows - len(segment.rows))
        if missing:
            work = ProbeChunk(
                [ray.put(segment.rows)],
                segment.ends,
                segment.places,
                self._config.index,
                self._config.clips,
            )
            resources = self._config.resources
            run_numbered(work, missing, decoding(resources), self._begun())
        self._check(segment)

    def _expect(self, more: int) -> None:
        """There are so many inputs more to probe, or fewer."""
        self._left += more
        if self._progress is not None:
            self._progress.total = self._left

    def _begun(self) -> Progress:
        if self._progress is None:
            load_decoder(self._config.clips.decoder)  # an unknown one is an error here, once
            resources = self._config.resources
            asks = demands.decoding(resources)
            demands.refuse_impossible(asks, resources)
            self._progress = Progress("index", self._left, "inputs", asks, resources)
            self._progress.__enter__()
        return self._progress

    def _check(self, segment: Segment) -> None:
        reasons: Counter[str] = Counter()
        for table in segment.rejects():
            reasons.update(self._known.newly_away(table))
        tried = len(segment.rows) - self._known.num_away(input_keys(segment.rows))
        self._losses.add(reasons, tried, "What was added before them stays")


def _ahead(read: Callable[[Location], _Result], places: Iterable[Location]) -> Iterator[_Result]:
    """What is read of each place, in order; the next ones are read meanwhile."""
    left = iter(places)
    with ThreadPoolExecutor(_READERS) as pool:
        waiting = deque(pool.submit(read, place) for place in islice(left, _READERS))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(read, place) for place in islice(left, 1))
            yield done
