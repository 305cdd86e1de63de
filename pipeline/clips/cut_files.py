"""One file of a cuts table, CSV or Parquet, read a batch of rows at a time."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.storage import Location, check_claims

NEEDED = ("uri", "start_s", "end_s")
_NAME = re.compile(r"\.(?:(csv|tsv)(?:\.(gz|bz2|zst))?|parquet)$", re.IGNORECASE)
_ROWS, _BLOCK_BYTES = 65_536, 2**23  # of a batch of Parquet, and of CSV
_UNPACKED = 100  # a compressed table unpacks to at most so many times its size
_COMPRESSION = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
_PARTITION = re.compile(r"([^/=]+)=([^/]*)/")  # a folder of Hive and Spark: split=train
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def is_cuts_table(name: str) -> bool:
    """Whether a file of this name is a cuts table."""
    return _NAME.search(name) is not None


class CutsFile:
    """One file of a cuts table.

    Args:
        folder: of the table: what lies between it and the file may name columns, as Spark does.
        place: the file; label_column: the column that holds labels.

    Attributes:
        ragged: rows of more or fewer cells than the header has, as they are read.
    """

    def __init__(self, folder: Location, place: Location, label_column: str) -> None:
        self.folder, self.place, self.label_column = folder, place, label_column
        self.ragged: list[pa.csv.InvalidRow] = []

    def batches(self) -> Iterator[pa.Table]:
        """The columns that matter, of whatever types they have.

        Raises:
            UserError: it does not parse, lacks a column or has one of them twice.
        """
        is_parquet = self.place.name.lower().endswith("parquet")
        try:
            for table in self._parquet() if is_parquet else self._csv():
                table.validate(full=True)
                yield table
        except UserError:
            raise
        except Exception as error:  # whatever a parser makes of wrong bytes
            raise UserError(f"cannot read the cuts table {self.place}: {error}") from error

    def _wanted(self, has: Sequence[str], partitions: Sequence[str] = ()) -> list[str]:
        """The columns to read, of those that the file has."""
        wanted = [*dict.fromkeys([*NEEDED, self.label_column, "split"])]
        if doubled := [name for name in wanted if list(has).count(name) > 1]:
            raise UserError(
                f"the cuts table {self.place} has the column(s) {', '.join(doubled)} more than "
                "once; rename or drop the others"
            )
        needed = [*NEEDED] + [self.label_column] * (self.label_column != "label")
        if missing := [name for name in needed if name not in (*has, *partitions)]:
            raise UserError(
                f"the cuts table {self.place} lacks the column(s) {', '.join(missing)}; "
                f"it has {', '.join(has)}"
            )
        return [name for name in wanted if name in has]

    def _parquet(self) -> Iterator[pa.Table]:
        below = self.place.path[len(self.folder.path) :].lstrip("/")
        with self.place.fs.open_input_file(self.place.path) as stream:
            file = pq.ParquetFile(stream)
            check_claims(file.metadata, stream.size())
            has = file.schema_arrow.names
            named = {name: value for name, value in _PARTITION.findall(below) if name not in has}
            columns = self._wanted(has, [*named])
            for batch in file.iter_batches(_ROWS, columns=columns):
                table = pa.Table.from_batches([batch])
                for name, value in named.items():
                    text = None if value == _NO_PARTITION else unquote(value)
                    column = pa.repeat(pa.scalar(text, pa.string()), len(table))
                    table = table.append_column(name, column)
                yield table

    def _csv(self) -> Iterator[pa.Table]:
        # First the header alone: types of columns that do not matter are never guessed.
        with self._opened({}, lambda row: "skip") as reader:
            has = reader.schema.names
        types = dict.fromkeys(self._wanted(has), pa.binary())
        with self._opened(types, self._note_ragged) as reader:
            while True:
                try:
                    with _quiet():
                        batch = reader.read_next_batch()
                except StopIteration:
                    return
                yield pa.Table.from_batches([batch])

    def _opened(self, types: dict[str, pa.DataType], ragged: Any) -> pa.csv.CSVStreamingReader:
        """With no `types`: to look at the header."""
        form, packed = _NAME.search(self.place.name).groups()  # type: ignore[union-attr]
        fs, path = self.place.fs, self.place.path
        if packed:
            opened = fs.open_input_stream(path, compression=_COMPRESSION[packed.lower()])
            stream: Any = _Bounded(opened, self.place.info().size)
        else:
            stream = fs.open_input_stream(path, compression=None)
        # Without threads, which alone numbers the rows.
        read = pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
        parse = pa.csv.ParseOptions(
            delimiter="\t" if form.lower() == "tsv" else ",",
            newlines_in_values=True,
            invalid_row_handler=ragged,
        )
        convert = pa.csv.ConvertOptions(column_types=types, include_columns=[*types] or None)
        with _quiet():
            return pa.csv.open_csv(stream, read, parse, convert)

    def _note_ragged(self, row: pa.csv.InvalidRow) -> str:
        self.ragged.append(row)
        return "skip"


@contextmanager
def _quiet() -> Iterator[None]:
    """Arrow prints a traceback of a ragged row that is not UTF-8, and then says so in its error."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


class _Bounded(io.RawIOBase):
    """What a compressed file holds. Raises ValueError once it is a bomb."""

    def __init__(self, stream: pa.NativeFile, file_bytes: int) -> None:
        self._stream, self._file_bytes, self._size = stream, file_bytes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._size += len(data)
        most = _UNPACKED * self._file_bytes + 2**26
        if self._size > most:
            raise ValueError(f"its {self._file_bytes:,} bytes unpack to more than {most:,}")
        buffer[: len(data)] = data
        return len(data)
