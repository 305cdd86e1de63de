"""Cuts tables: the user's own list of files, or of cuts of them, as CSV or Parquet.

Only a fault of the whole table is an error. A fault of one row is that row's reject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.addresses import is_uri, redacted
from pipeline.clips.cells import names, seconds, texts
from pipeline.clips.cut_files import CutsFile
from pipeline.clips.rejects import Reason, Reject
from pipeline.clips.table import clip_id
from pipeline.errors import UserError
from pipeline.storage import Location

# One row a file (start_s and end_s empty: cut it up) or one row a cut.
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("start_s", pa.float64()),  # first second of the window, or a clock time: 00:01:02.5
        ("end_s", pa.float64()),  # last second of the window; the file's end where that is earlier
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
Rejected = tuple[str, str | None, Reject]  # URI, `cut_id` and why


@dataclass
class MediaStream:
    """What there is to index, a table of rows at a time, for lists of any length."""

    tables: Iterable[pa.Table]  # `SCHEMA`, in a fixed order
    rejected: list[Rejected] = field(default_factory=list)  # found so far; whoever reads may empty
    notes: list[str] = field(default_factory=list)  # for the user, there with the last table
    may_repeat: bool = False  # whether rows may ask for the same

    def listing(self) -> Listing:
        """All of it, each file and cut once."""
        rows = pa.concat_tables([SCHEMA.empty_table(), *self.tables])
        found = Listing(rows, self.rejected, notes=self.notes)
        return found.without_repeated() if self.may_repeat else found


@dataclass
class Listing:
    """What there is to index."""

    rows: pa.Table  # `SCHEMA`
    rejected: list[Rejected] = field(default_factory=list)  # what cannot even be looked at
    repeated: int = 0  # rows left out, because an earlier one asks for the same
    notes: list[str] = field(default_factory=list)  # what the user should know, a line each

    def without_repeated(self) -> Listing:
        """Every file once, and every cut once; its label is the first one."""
        rows = self.rows
        keys: dict[str, Any] = {"uri": rows["uri"]}
        for name in ("start_s", "end_s"):
            keys[name] = pc.round(pc.multiply(rows[name], 1000.0))  # as a clip's id has it
        numbered = pa.table(keys | {"row": pa.array(np.arange(len(rows)))})
        first = numbered.group_by([*keys]).aggregate([("row", "min")])["row_min"].to_numpy()
        rejected = list({cut or uri: (uri, cut, why) for uri, cut, why in self.rejected}.values())
        repeated = len(rows) - len(first) + len(self.rejected) - len(rejected)
        return Listing(rows.take(pa.array(np.sort(first))), rejected, repeated, self.notes)


def cut_id(uri: str, start_s: Any, end_s: Any) -> str | None:
    """What a row asks for: the clip's id where it can be one. None: the whole file."""
    if start_s is None and end_s is None:
        return None
    if isinstance(start_s, float) and isinstance(end_s, float) and _is_time(start_s, end_s):
        return clip_id(uri, start_s, end_s)
    asked = f"{uri}\n{start_s!r}\n{end_s!r}".encode(errors="backslashreplace")
    return hashlib.blake2b(asked, digest_size=8).hexdigest()


def read_cuts(
    place: Location, parts: Sequence[Location], label_column: str = "label"
) -> MediaStream:
    """The rows of a cuts table.

    Args:
        place: the table; relative URIs start at its folder, or in it where it is a folder.
        parts: its files, one or several.
        label_column: the column to take as ``label``.

    Raises:
        UserError: as the tables are read: one does not parse, lacks a column or has one of them
            twice; or there are no rows.
    """
    folder = place if [place] != [*parts] else _parent(place)
    stream = MediaStream((), may_repeat=True)

    def tables() -> Iterator[pa.Table]:
        several = rows = 0
        for part in parts:
            file = _Rows(CutsFile(folder, part, label_column), stream.rejected)
            yield from file.tables()
            several, rows = several + file.several_labels, rows + file.num_rows
        if not rows:
            raise UserError(f"the cuts table {place} has no rows")
        if several:
            stream.notes.append(f"rows with several labels, which count as unlabelled: {several:,}")

    stream.tables = tables()
    return stream


class _Rows:
    """The rows of one file of a cuts table; those that make no sense go to `rejected`."""

    def __init__(self, file: CutsFile, rejected: list[Rejected]) -> None:
        self.file, self.rejected = file, rejected
        self.folder, self.place = file.folder, file.place
        self.several_labels = self.num_rows = 0
        self._resolved: dict[str, tuple[str, Reject | None]] = {}

    def tables(self) -> Iterator[pa.Table]:
        """`SCHEMA`."""
        row = 0
        for batch in self.file.batches():
            self._reject_ragged()
            yield self._sound(batch, row)
            row += len(batch)
        self._reject_ragged()
        self.num_rows += row

    def _reject_ragged(self) -> None:
        for row in self.file.ragged:
            uri = f"{self.place.full_uri}#row={row.number}"
            cells = f"{row.actual_columns} cells in a table of {row.expected_columns} columns"
            why = Reject(Reason.BAD_CUT, cells)
            self.rejected.append((uri, cut_id(uri, row.text, ""), why))
        self.num_rows += len(self.file.ragged)
        self.file.ragged.clear()

    def _sound(self, table: pa.Table, first: int) -> pa.Table:
        """The rows that make sense; `first` is the number of the first row in its file."""
        self._resolved.clear()  # rows that follow each other name the same files
        found = [self._resolve(name) for name in names(table["uri"])]
        (start, bad_start), (end, bad_end) = seconds(table["start_s"]), seconds(table["end_s"])
        start_s, end_s = _floats(start), _floats(end)
        good = (_is_time(start_s, end_s) & (start_s < end_s)) | _true(
            pc.and_(start.is_null(), end.is_null())
        )
        good &= ~_true(pc.or_(bad_start, bad_end))
        good &= np.array([why is None for _, why in found], bool)
        for row in np.flatnonzero(~good).tolist():
            uri, why = found[row]
            uri = uri or f"{self.place.full_uri}#row={first + row + 1}"
            asked = [_shown(table[name][row].as_py()) for name in ("start_s", "end_s")]
            why = why or Reject(Reason.BAD_CUT, f"start_s={asked[0]}, end_s={asked[1]}")
            self.rejected.append((uri, cut_id(uri, *asked), why))
        columns = {"uri": pa.array([uri for uri, _ in found], pa.string())}
        columns |= {"start_s": start, "end_s": end}
        for name, source in (("label", self.file.label_column), ("split", "split")):
            there = source in table.column_names
            columns[name] = texts(table[source]) if there else pa.nulls(len(table), pa.string())
            if name == "label" and there and pa.types.is_nested(table[source].type):
                items = (value for value in table[source].to_pylist() if isinstance(value, list))
                self.several_labels += sum(len(value) > 1 for value in items)
        return pa.table(columns, schema=SCHEMA).filter(pa.array(good))

    def _resolve(self, name: str | None) -> tuple[str, Reject | None]:
        """The address as `Location.full_uri` has it, and why it is none."""
        if name is None or not name.strip():
            return "", Reject(Reason.BAD_CUT, "the cuts table names no file in this row")
        if name not in self._resolved:
            self._resolved[name] = self._address(name)
        return self._resolved[name]

    def _address(self, name: str) -> tuple[str, Reject | None]:
        try:
            if is_uri(name) or name.startswith("/"):
                uri = Location.named(name).full_uri
            else:
                uri = _below(self.folder, name).full_uri
            uri.encode()
        except (UserError, ValueError) as error:
            printable = redacted(name).encode(errors="backslashreplace").decode()
            return printable, Reject(Reason.UNREADABLE, str(error))
        return uri, None


def _shown(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _parent(place: Location) -> Location:
    return Location(place.uri.rpartition("/")[0], place.query)


def _below(folder: Location, name: str) -> Location:
    """A file named relative to a folder; in a bucket all but leading dots belong to the key."""
    if folder.is_local or folder.uri == "":
        return Location.named(f"{folder.uri}/{name}")
    while name.startswith(("./", "../")):
        if name.startswith("../"):
            folder = _parent(folder)
        name = name.partition("/")[2]
    return folder / name


def _is_time(start_s: Any, end_s: Any) -> Any:
    """Whether both are finite in milliseconds, too, which a clip's id counts in."""
    with np.errstate(over="ignore"):
        return np.isfinite(np.multiply(start_s, 1000.0)) & np.isfinite(np.multiply(end_s, 1000.0))


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64 [rows], NaN where there is none."""
    return pc.fill_null(column, np.nan).to_numpy()


def _true(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(bool)
