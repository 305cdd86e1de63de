"""Sealed Parquet files of which only the rows of a range are read.

Rows are sorted by a column and lie in small row groups. The file's entry in its manifest holds the
size and digest of its footer, which says where each row group lies; every page has a checksum. So
what is read is known to be what was written, without reading the rest.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.errors import Malformed, parsing
from pipeline.manifest import Damaged, Entry, Manifest, digest_of

_GROUP_ROWS = 128  # of what a reader takes, up to two groups are not of its range
_TAIL = 8  # bytes after the footer: its size, then the format's mark
_FOOTER = "footer"  # the entry's note


def sorted_parquet(table: pa.Table, column: str) -> tuple[memoryview, Entry]:
    """The bytes of a Parquet file of a table's rows in the order of a column, and its entry.

    The entry notes the column's ``first`` and ``last`` value. Floats lie byte by byte: numbers of
    one size share their upper bytes (Parquet's BYTE_STREAM_SPLIT).

    Args:
        table: at least one row; the column has integers, the others fixed-size lists of floats.
    """
    if pc.any(pc.less(pc.pairwise_diff(table[column].combine_chunks()), 0)).as_py():
        table = table.sort_by(column)
    lists = [name for name in table.column_names if name != column]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=_GROUP_ROWS,
        use_dictionary=False,
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in lists},
        write_page_checksum=True,
    )
    data = sink.getbuffer()
    size = int.from_bytes(data[-_TAIL : -_TAIL // 2], "little") + _TAIL
    first, last = table[column][0].as_py(), table[column][-1].as_py()
    return data, Entry.of(data, first=first, last=last, footer=[size, digest_of(data[-size:])])


def has_ranges(entry: Entry) -> bool:
    """Whether a part of the file can be read: older releases wrote others."""
    return _FOOTER in entry.notes


def schema(manifest: Manifest, name: str) -> pa.Schema:
    """Raises Damaged if the file's footer is not as it was written."""
    with _read(manifest, name, None) as file:
        return file.schema_arrow


def read_range(manifest: Manifest, name: str, column: str, start: int, stop: int) -> pa.Table:
    """The row groups that may hold rows with ``start <= column < stop``; none: an empty table.

    Raises:
        Damaged: what was read is not as it was written.
    """
    place = manifest.folder / name
    with _read(manifest, name, (column, start, stop)) as file:
        groups = _groups(file.metadata, column, start, stop)
        try:
            with parsing(place, "a Parquet file"):
                return file.read_row_groups(groups, use_threads=False)
        except Malformed as error:
            raise Damaged(place, f"its content has changed since it was written: {error}") from None


def _read(manifest: Manifest, name: str, wanted: tuple[str, int, int] | None) -> pq.ParquetFile:
    """The file, with the bytes of its footer and of the row groups that are wanted alone."""
    place, entry = manifest.folder / name, manifest.files[name]

    def fetched(fs: pyarrow.fs.FileSystem, path: str) -> pq.ParquetFile:
        size, digest = entry.notes[_FOOTER]
        with fs.open_input_file(path) as stream:
            if stream.size() != entry.size:
                what = f"it has {stream.size():,} bytes, {entry.size:,} were written"
                raise Damaged(place, what)
            tail = stream.read_at(size, entry.size - size)
            if digest_of(tail) != digest:
                raise Damaged(place, "its footer has changed since it was written")
            footer = pq.read_metadata(pa.BufferReader(tail))
            begin, end = _span(footer, _groups(footer, *wanted) if wanted else ())
            held = _Window(entry.size, begin, stream.read_at(end - begin, begin))
        return pq.ParquetFile(
            pa.PythonFile(held, "r"), metadata=footer, page_checksum_verification=True
        )

    try:
        return place.patiently(fetched)
    except FileNotFoundError:
        raise Damaged(place, "it is gone") from None


def _groups(footer: pq.FileMetaData, column: str, start: int, stop: int) -> list[int]:
    """Neighbours, since the rows are sorted."""
    number = footer.schema.names.index(column)
    found = []
    for group in range(footer.num_row_groups):
        known = footer.row_group(group).column(number).statistics
        if known.max >= start and known.min < stop:
            found.append(group)
    return found


def _span(footer: pq.FileMetaData, groups: Sequence[int]) -> tuple[int, int]:
    """The bytes [begin, end) of neighbouring row groups."""
    if not groups:
        return 0, 0
    columns = range(footer.num_columns)
    first, last = footer.row_group(groups[0]), footer.row_group(groups[-1])
    begin = min(first.column(c).data_page_offset for c in columns)
    ends = (last.column(c) for c in columns)
    return begin, max(c.data_page_offset + c.total_compressed_size for c in ends)


class _Window(io.RawIOBase):
    """A file of which only the bytes [begin, begin + len(data)) are there."""

    def __init__(self, size: int, begin: int, data: bytes) -> None:
        self._size, self._begin, self._data, self._at = size, begin, data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        at = self._at - self._begin
        if at < 0 or size < 0 or at + size > len(self._data):
            raise ValueError(f"bytes {self._at:,} to {self._at + size:,} were not read")
        self._at += size
        return self._data[at : at + size]
