"""The inputs of one indexing run that are new, as Parquet parts in scratch.

What is listed passes by once, table after table. Of inputs that may repeat, or that may give a clip
twice, keys are held: 8 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.clips import rejects
from pipeline.clips.chunks import rejected_row, rejects_table
from pipeline.clips.cut_tables import SCHEMA as LISTED
from pipeline.clips.cut_tables import MediaStream
from pipeline.clips.input_keys import (
    among,
    cut_ids,
    distinct,
    id_keys,
    keys_of,
    repeated,
    uri_keys,
)
from pipeline.clips.known import KnownInputs
from pipeline.storage import Location

INPUTS_PER_PART = 131_072  # 10 to 30 MB in memory

# One row an input: what is listed, its cut id (null: a whole file), and the key of its URI.
SCHEMA = pa.schema([*LISTED, ("clip_id", pa.string()), ("uri_key", pa.uint64())])


@dataclass
class Worklist:
    """What is to be probed, and counts of what was listed: each file and each cut once."""

    folder: Location
    parts: list[Location] = field(default_factory=list)  # `SCHEMA`
    unlisted: pa.Table = field(default_factory=rejects.SCHEMA.empty_table)  # new rejects of listing
    listed: int = 0  # with what was rejected
    repeated: int = 0
    num_inputs: int = 0  # to be probed
    unit: str = "files"  # or "cuts"
    again: np.ndarray = field(default_factory=lambda: distinct([]))  # keys of several rows, uint64
    both: np.ndarray = field(default_factory=lambda: distinct([]))  # URIs asked for as file and cut

    @classmethod
    def written(cls, media: MediaStream, known: KnownInputs, folder: Location) -> Worklist:
        """Read the stream to its end; what is not known goes to `folder`, which is emptied.

        Raises:
            UserError: as the stream does.
        """
        folder.delete()
        work = cls(folder)
        _Writer(work, media, known).write()
        return work

    def tables(self) -> Iterator[pa.Table]:
        """`SCHEMA`: every input once, the first of those that ask for the same."""
        taken = np.zeros(len(self.again), bool)
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(part.read_table) for part in self.parts[:1]]
            for number in range(len(self.parts)):
                table = ahead.pop().result()
                ahead += [pool.submit(p.read_table) for p in self.parts[number + 1 : number + 2]]
                keys = input_keys(table)
                rows = np.flatnonzero(among(keys, self.again))
                if len(rows):
                    place = np.searchsorted(self.again, keys[rows])
                    _, first = np.unique(place, return_index=True)
                    keep = np.ones(len(table), bool)
                    keep[rows] = False
                    keep[rows[first]] = ~taken[place[first]]
                    taken[place] = True
                    table = table.filter(pa.array(keep))
                yield table


class _Writer:
    """Fills a worklist."""

    def __init__(self, work: Worklist, media: MediaStream, known: KnownInputs) -> None:
        self.work, self.media, self.known = work, media, known
        self.held: list[pa.Table] = []
        self.new_keys: list[np.ndarray] = []  # of all rows, where they may repeat
        self.known_keys: list[np.ndarray] = []
        self.files: list[np.ndarray] = []  # keys of URIs asked for as a whole, and of cut ones
        self.cut_files: list[np.ndarray] = []
        self.unlisted: list[pa.Table] = []
        self.num_known = self.num_cuts = 0

    def write(self) -> None:
        work = self.work
        for rows in self.media.tables:
            self._take(rows)
            self._reject()
            if sum(map(len, self.held)) >= INPUTS_PER_PART:
                self._write_part()
        self._reject()
        self._write_part()
        if self.media.may_repeat:
            self._count_repeated()
        work.listed = work.num_inputs + self.num_known
        self._add_unlisted()
        work.unit = "cuts" if self.num_cuts else "files"

    def _count_repeated(self) -> None:
        work = self.work
        if self.num_cuts:
            cut, files = distinct(self.cut_files), distinct(self.files)
            work.both = files[among(files, cut)]
        self.files, self.cut_files = [], []
        rows = sum(map(len, self.new_keys)) + sum(map(len, self.known_keys))
        self.num_known = len(distinct(self.known_keys))
        work.again, work.num_inputs = repeated(self.new_keys)
        work.repeated = rows - work.num_inputs - self.num_known
        self.new_keys, self.known_keys = [], []

    def _take(self, rows: pa.Table) -> None:
        ids, uris = cut_ids(rows), uri_keys(rows["uri"])
        is_cut = ids.is_valid().to_numpy()
        keys = np.where(is_cut, id_keys(ids), uris)
        old = self.known.contains(keys, is_cut)
        self.num_cuts += int(is_cut.sum())
        if self.media.may_repeat:
            self.new_keys.append(keys[~old])
            self.known_keys.append(keys[old])
            self.files.append(distinct([uris[~is_cut & ~old]]))
            self.cut_files.append(distinct([uris[is_cut & ~old]]))
        else:
            self.num_known += int(old.sum())
            self.work.num_inputs += int((~old).sum())
        columns = [*rows.columns, ids, pa.array(uris)]
        new = pa.table(columns, schema=SCHEMA).filter(pa.array(~old))
        if len(new):
            self.held.append(new)

    def _reject(self) -> None:
        """What the stream has rejected by now."""
        found = self.media.rejected
        if found:
            self.unlisted.append(rejects_table(rejected_row("list", *row) for row in found))
            found.clear()

    def _write_part(self) -> None:
        if self.held:
            place = self.work.folder / f"part-{len(self.work.parts):06d}.parquet"
            place.write_table(pa.concat_tables(self.held), INPUTS_PER_PART)
            self.work.parts.append(place)
            self.held.clear()

    def _add_unlisted(self) -> None:
        rows = pa.concat_tables([rejects.SCHEMA.empty_table(), *self.unlisted])
        is_cut = rows["clip_id"].is_valid().to_numpy()
        keys = keys_of(rows["uri"], rows["clip_id"])
        if self.media.may_repeat:
            first = np.sort(np.unique(keys, return_index=True)[1])
            self.work.repeated += len(rows) - len(first)
            rows, is_cut, keys = rows.take(pa.array(first)), is_cut[first], keys[first]
        self.num_cuts += int(is_cut.sum())
        self.work.listed += len(rows)
        self.work.unlisted = rows.filter(pa.array(~self.known.contains(keys, is_cut)))


def input_keys(rows: pa.Table) -> np.ndarray:
    """uint64 [rows] of a worklist's rows."""
    uris, ids = rows["uri_key"].to_numpy(), rows["clip_id"]
    if ids.null_count == len(ids):
        return uris
    return np.where(ids.is_valid().to_numpy(), id_keys(ids), uris)
