"""Near-duplicates: groups of clips that hang together, and which clips of a group stay.

Of a group the clip that is nearest to the group's mean stays, and stands for all that are near to
it. Of the others again, until none is left. So a clip that is left out is always near to one that
stays, also where a long chain of near clips hangs together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from pipeline.clips.stream import run_numbered
from pipeline.curation.clustered_clips import ClusteredClips
from pipeline.curation.exchange import RANGE_CLIPS, Exchange, Windows, WriteRanges
from pipeline.curation.near_pairs import BLOCK_ROWS, FindPairs, cosines, groups, unit_rows
from pipeline.runtime import demands
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress

_DIGITS = 4  # of a cosine with the mean, within which clips are equally near to it

CHOSEN = pa.schema([("clip", pa.int64()), ("kept", pa.int64()), ("cosine", pa.float32())])


class Duplicates(NamedTuple):
    """Clips that others stand for."""

    clips: np.ndarray  # int64 [m]
    kept_for: np.ndarray  # int64 [m], the clip that stays
    cosine: np.ndarray  # float32 [m], the least over the spaces
    groups: int
    largest: int  # clips of the largest group


@dataclass(frozen=True)
class NearSearch:
    """The search for near-duplicates over one round's clips."""

    clustered: ClusteredClips
    spaces: tuple[str, ...]  # clusterings in whose spaces two clips must be near
    least: float  # cosine
    scratch: Location

    def run(self, clips: np.ndarray) -> Duplicates:
        """Among the clips bool [N].

        Those of the same cluster are compared, in turn for each of the clusterings: two that a
        border parts in one of them are met in another.

        Raises:
            UserError: the features are gone.
        """
        found: list[pa.Table] = []
        for name in self.spaces:
            labels = np.where(clips, self.clustered.labels(name), np.int32(-1))
            folder, windows = self.scratch / name, Windows.of(labels)
            exchange = self._exchange(folder / "vectors", windows)
            search = FindPairs.of(exchange, windows, self.least, folder / "links")
            done = folder / "_DONE"
            if not done.exists():
                self._fill(exchange, labels, windows, f"sort by {name} clusters")
                self._do(search, f"compare in {name} clusters", search.pairs, "pairs")
                done.write_bytes(b"")
            exchange.folder.delete()  # the next ones take as much room
            found += search.links()
        return self._chosen(groups(found, len(clips)))

    def _chosen(self, number: np.ndarray) -> Duplicates:
        windows = Windows.of(number)
        folder = self.scratch / "groups"
        exchange = self._exchange(folder / "vectors", windows)
        choice = ChooseKept(exchange, windows.sizes, self.least, folder / "chosen")
        if windows.sizes.any():
            self._fill(exchange, number, windows, "sort by groups")
            self._do(choice, "choose of groups", windows.sizes, "clips")
        tables = [CHOSEN.empty_table(), *choice.tables()]
        chosen = pa.concat_tables(tables)
        sizes = np.bincount(number[number >= 0], minlength=1)
        clips, kept_for, cosine = (chosen[name].to_numpy() for name in CHOSEN.names)
        return Duplicates(clips, kept_for, cosine, int((sizes > 0).sum()), int(sizes.max()))

    def _exchange(self, folder: Location, windows: Windows) -> Exchange:
        return Exchange.of(folder, [self.clustered.space(name) for name in self.spaces], windows)

    def _fill(self, exchange: Exchange, numbers: np.ndarray, windows: Windows, title: str) -> None:
        work = WriteRanges.of(exchange, numbers, windows)
        sizes = np.diff([*range(0, len(numbers), RANGE_CLIPS), len(numbers)])
        self._do(work, title, sizes, "clips")

    def _do(
        self, work: WriteRanges | FindPairs | ChooseKept, title: str, sizes: np.ndarray, unit: str
    ) -> None:
        """Work by numbers, of these sizes."""
        if not len(sizes):
            return
        resources = self.clustered.run.config.resources
        asks = demands.decoding(resources)
        demands.refuse_impossible(asks, resources)
        whole = f"near-duplicates · {title}"
        with Progress(whole, int(sizes.sum()), unit, asks, resources) as progress:
            run_numbered(work, range(len(sizes)), decoding(resources), progress)


@dataclass(frozen=True)
class ChooseKept:
    """Which clips of each group of a window stay; by the window."""

    exchange: Exchange
    sizes: np.ndarray  # int64 [w]
    least: float
    out: Location

    def __call__(self, window: int) -> Mapping[str, int]:
        if self.sizes[window] and not self._place(window).exists():
            rows = self.exchange.read(window)
            changes = np.flatnonzero(np.diff(rows.numbers)) + 1
            found = [CHOSEN.empty_table()]
            with threadpool_limits(1, "blas"):
                for start, stop in pairwise([0, *changes.tolist(), len(rows.numbers)]):
                    vectors, clips = rows.vectors[start:stop], rows.clips[start:stop]
                    kept, cosine = representatives(vectors, self.exchange.edges, self.least)
                    out = np.flatnonzero(kept != np.arange(len(kept)))
                    columns = (clips[out], clips[kept[out]], cosine[out])
                    found.append(pa.table([pa.array(c) for c in columns], schema=CHOSEN))
            self._place(window).write_table(pa.concat_tables(found))
        return {"done": int(self.sizes[window])}

    def tables(self) -> Sequence[pa.Table]:
        return [self._place(int(window)).read_table() for window in np.flatnonzero(self.sizes)]

    def _place(self, window: int) -> Location:
        return self.out / f"chosen-{window:06d}.parquet"


def representatives(
    vectors: np.ndarray, edges: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of a group's rows, which stay.

    Args:
        vectors: float16 [n, d] in order of clips.
        edges: columns between the spaces; least: cosine of near rows.

    Returns:
        int64 [n], the row that stands for each, itself where it stays; float32 [n], their cosine.
    """
    n = len(vectors)
    values = unit_rows(vectors, edges)
    # Row by row, so that equal rows get equal sums, whatever a matrix product would round.
    central = np.round((values * values.mean(axis=0)).sum(axis=1), _DIGITS)
    order = np.argsort(-central, kind="stable")
    stands, nearness = np.arange(n), np.ones(n, np.float32)
    stays: list[int] = []
    for at in range(0, n, BLOCK_ROWS):
        block = order[at : at + BLOCK_ROWS]
        for before in range(0, len(stays), BLOCK_ROWS):
            known = np.array(stays[before : before + BLOCK_ROWS])
            near = cosines(values[block], values[known], edges)
            best = near.argmax(axis=1)
            cosine = near[np.arange(len(block)), best]
            better = (cosine >= least) & ((stands[block] == block) | (cosine > nearness[block]))
            stands[block[better]], nearness[block[better]] = known[best[better]], cosine[better]
        near = cosines(values[block], values[block], edges)
        for row, one in enumerate(block.tolist()):
            if stands[one] == one:
                stays.append(one)
                later = row + 1 + np.flatnonzero(near[row, row + 1 :] >= least)
                later = later[stands[block[later]] == block[later]]
                stands[block[later]], nearness[block[later]] = one, near[row, later]
    return stands, nearness
