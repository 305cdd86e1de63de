"""Cuts tables: the user's own list of files, or of cuts of them, as CSV or Parquet.

Only a fault of the whole table is an error. A fault of one row is that row's reject.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.addresses import is_uri, redacted
from pipeline.clips.cells import names, seconds, texts
from pipeline.clips.rejects import Reason, Reject
from pipeline.clips.table import clip_id
from pipeline.errors import UserError
from pipeline.storage import Location, check_claims

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
_NEEDED = ["uri", "start_s", "end_s"]
_NAME = re.compile(r"\.(?:(csv|tsv)(?:\.(gz|bz2|zst))?|parquet)$", re.IGNORECASE)
_UNPACKED = 100  # a compressed table unpacks to at most so many times its size
_COMPRESSION = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
_PARTITION = re.compile(r"([^/=]+)=([^/]*)/")  # a folder of Hive and Spark: split=train
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


Rejected = tuple[str, str | None, Reject]  # URI, `cut_id` and why


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


def is_cuts_table(name: str) -> bool:
    """Whether a file of this name is a cuts table."""
    return _NAME.search(name) is not None


def cut_id(uri: str, start_s: Any, end_s: Any) -> str | None:
    """What a row asks for: the clip's id where it can be one. None: the whole file."""
    if start_s is None and end_s is None:
        return None
    if isinstance(start_s, float) and isinstance(end_s, float) and _is_time(start_s, end_s):
        return clip_id(uri, start_s, end_s)
    asked = f"{uri}\n{start_s!r}\n{end_s!r}".encode(errors="backslashreplace")
    return hashlib.blake2b(asked, digest_size=8).hexdigest()


def read_cuts(place: Location, parts: Sequence[Location], label_column: str = "label") -> Listing:
    """The rows of a cuts table.

    Args:
        place: the table; relative URIs start at its folder, or in it where it is a folder.
        parts: its files, one or several.
        label_column: the column to take as ``label``.

    Raises:
        UserError: it does not parse, lacks a column or has one of them twice, or has no rows.
    """
    folder = place if [place] != [*parts] else _parent(place)
    read = [_Part(folder, part, label_column) for part in parts]
    listing = Listing(pa.concat_tables([part.rows() for part in read]))
    for part in read:
        listing.rejected += part.rejected
    if not len(listing.rows) and not listing.rejected:
        raise UserError(f"the cuts table {place} has no rows")
    if several := sum(part.several_labels for part in read):
        listing.notes.append(f"rows with several labels, which count as unlabelled: {several:,}")
    return listing


class _Part:
    """One file of a cuts table."""

    def __init__(self, folder: Location, place: Location, label_column: str) -> None:
        self.folder, self.place, self.label_column = folder, place, label_column
        self.rejected: list[Rejected] = []
        self.several_labels = 0
        self._resolved: dict[str, tuple[str, Reject | None]] = {}

    def rows(self) -> pa.Table:
        """`SCHEMA`; rows that make no sense go to `rejected`."""
        table = self._read()
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
            uri = uri or f"{self.place.full_uri}#row={row + 1}"
            asked = [_shown(table[name][row].as_py()) for name in ("start_s", "end_s")]
            why = why or Reject(Reason.BAD_CUT, f"start_s={asked[0]}, end_s={asked[1]}")
            self.rejected.append((uri, cut_id(uri, *asked), why))
        columns = {"uri": pa.array([uri for uri, _ in found], pa.string())}
        columns |= {"start_s": start, "end_s": end}
        for name, source in (("label", self.label_column), ("split", "split")):
            there = source in table.column_names
            columns[name] = texts(table[source]) if there else pa.nulls(len(table), pa.string())
        return pa.table(columns, schema=SCHEMA).filter(pa.array(good))

    def _read(self) -> pa.Table:
        """The columns that matter, of whatever types they have."""
        try:
            if self.place.name.lower().endswith("parquet"):
                table = self._read_parquet()
            else:
                with _quiet():
                    table = self._read_csv()
            has = table.column_names
            table.validate(full=True)
        except UserError:
            raise
        except Exception as error:  # whatever a parser makes of wrong bytes
            raise UserError(f"cannot read the cuts table {self.place}: {error}") from error
        needed = _NEEDED + [self.label_column] * (self.label_column != "label")
        if missing := [name for name in needed if name not in has]:
            raise UserError(
                f"the cuts table {self.place} lacks the column(s) {', '.join(missing)}; "
                f"it has {', '.join(has)}"
            )
        labels = table[self.label_column] if self.label_column in has else None
        if labels is not None and pa.types.is_nested(labels.type):
            items = (value for value in labels.to_pylist() if isinstance(value, list))
            self.several_labels = sum(len(value) > 1 for value in items)
        return table

    def _wanted(self, has: Sequence[str]) -> list[str]:
        wanted = [*_NEEDED, self.label_column, "split"]
        if doubled := [name for name in wanted if list(has).count(name) > 1]:
            raise UserError(
                f"the cuts table {self.place} has the column(s) {', '.join(doubled)} more than "
                "once; rename or drop the others"
            )
        return [name for name in wanted if name in has]

    def _read_parquet(self) -> pa.Table:
        with self.place.fs.open_input_file(self.place.path) as stream:
            file = pq.ParquetFile(stream)
            check_claims(file.metadata, stream.size())
            has = file.schema_arrow.names
            table = file.read([*dict.fromkeys(self._wanted(has))])
        for name, value in _PARTITION.findall(self.place.path[len(self.folder.path) :].lstrip("/")):
            if name not in has:
                text = None if value == _NO_PARTITION else unquote(value)
                table = table.append_column(
                    name, pa.repeat(pa.scalar(text, pa.string()), len(table))
                )
        return table

    def _read_csv(self) -> pa.Table:
        form, packed = _NAME.search(self.place.name).groups()  # type: ignore[union-attr]
        columns = dict.fromkeys([*_NEEDED, self.label_column, "split"], pa.binary())
        compression = _COMPRESSION[packed.lower()] if packed else None
        with self.place.fs.open_input_stream(self.place.path, compression=compression) as opened:
            stream = _bounded(opened, self.place.info().size) if packed else opened
            table = pa.csv.read_csv(
                stream,
                pa.csv.ReadOptions(use_threads=False),  # which alone numbers the rows
                pa.csv.ParseOptions(
                    delimiter="\t" if form.lower() == "tsv" else ",",
                    newlines_in_values=True,
                    invalid_row_handler=self._ragged,
                ),
                pa.csv.ConvertOptions(column_types=columns),
            )
        return table.select([*dict.fromkeys(self._wanted(table.column_names))])

    def _ragged(self, row: pa.csv.InvalidRow) -> str:
        """A row of more or fewer cells than the header has."""
        uri = f"{self.place.full_uri}#row={row.number}"
        cells = f"{row.actual_columns} cells in a table of {row.expected_columns} columns"
        self.rejected.append((uri, cut_id(uri, row.text, ""), Reject(Reason.BAD_CUT, cells)))
        return "skip"

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


@contextmanager
def _quiet() -> Iterator[None]:
    """Arrow prints a traceback of a ragged row that is not UTF-8, and then says so in its error."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _bounded(stream: pa.NativeFile, file_bytes: int) -> pa.BufferReader:
    """What a compressed file holds. Raises ValueError if it is a bomb."""
    most, parts, size = _UNPACKED * file_bytes + 2**26, [], 0
    while part := stream.read(2**24):
        parts.append(part)
        size += len(part)
        if size > most:
            raise ValueError(f"its {file_bytes:,} bytes unpack to more than {most:,}")
    return pa.BufferReader(b"".join(parts))


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
