"""Feature files: Parquet parts with ``clip_index`` and ``features``, and a shard's rows of them."""

from __future__ import annotations

import itertools
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.storage import Location

_SHOWN = 10  # clip indices named in a message


def layout(folder: Location) -> tuple[int, np.dtype]:
    """Width and type (float16 or float32) of the features, from the schema of the first part.

    Raises:
        UserError: no part at all, or columns that are not features.
    """
    part = next(folder.files(".parquet"), None)
    if part is None:
        raise UserError(f"no feature files (*.parquet) in {folder}; embed the clips first")
    schema = pq.read_schema(part.path, filesystem=part.fs)
    for name in ("clip_index", "features"):
        if name not in schema.names:
            raise UserError(
                f"{part} has no column {name!r} (columns: {', '.join(schema.names)}); "
                "feature parts hold clip_index: int64 and features: fixed-size lists"
            )
    kind = schema.field("features").type
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise UserError(f"{part}: features must be fixed-size lists of floats, not {kind}")
    half = kind.value_type == pa.float16()
    return kind.list_size, np.dtype(np.float16 if half else np.float32)


def listing(features: Sequence[Location]) -> list[list[tuple[str, int]]]:
    """Names and sizes of the parts of every folder: tells new features from old ones."""
    return [
        [(i.base_name, i.size) for i in f.children() if i.base_name.endswith(".parquet")]
        for f in features
    ]


def _groups(
    folder: Location,
) -> Iterator[tuple[Location, pq.ParquetFile, int, tuple[int, int] | None]]:
    """Every row group: part, open file, number, and least and highest clip index where known."""
    for part in folder.files(".parquet"):
        with pq.ParquetFile(part.path, filesystem=part.fs) as file:
            column = file.schema_arrow.get_field_index("clip_index")
            for group in range(file.metadata.num_row_groups):
                found = file.metadata.row_group(group).column(column).statistics
                known = found is not None and found.has_min_max
                yield part, file, group, (found.min, found.max) if known else None


def batches(folder: Location, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows with ``start <= clip_index < stop``, a row group at a time.

    Row groups whose statistics exclude the range are not read, and features are read only where
    some row is wanted. Yields clip_index int64[m] and features [m, d] in the file's type.
    """
    for part, file, group, known in _groups(folder):
        if known and (known[1] < start or known[0] >= stop):
            continue
        index = file.read_row_group(group, ["clip_index"])["clip_index"].to_numpy()
        wanted = (index >= start) & (index < stop)
        if wanted.any():
            column = file.read_row_group(group, ["features"])["features"]
            yield index[wanted], _matrix(column, part)[wanted]


def check_indices(features: Sequence[Location], num_clips: int) -> None:
    """Every clip index lies in [0, num_clips), as far as the files' statistics tell.

    Raises:
        UserError: naming the file.
    """
    for part, _, _, known in itertools.chain.from_iterable(map(_groups, features)):
        if known and (known[0] < 0 or known[1] >= num_clips):
            raise UserError(
                f"{part} holds clip indices {known[0]} to {known[1]}, but there are {num_clips} "
                "clips: features and clips table do not belong together"
            )


class Buffer:
    """Bytes that are read and written as rows of a matrix, at chosen offsets.

    Within the budget the pages are private memory, touched only where written. Beyond it they are
    a mapped temporary file without a name, gone with the process; `release` then gives the pages
    back to the page cache, so that a pass over the data keeps only the current block resident.

    Args:
        size: bytes.
        budget: bytes that may be held in memory.
    """

    def __init__(self, size: int, budget: int):
        self.size = max(size, 1)
        self.on_disk = size > budget
        if self.on_disk:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as we)
            self._file.truncate(self.size)
            self._map = mmap.mmap(self._file.fileno(), self.size)
        else:
            self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def rows(self, offset: int, shape: tuple[int, int], dtype: np.dtype | type) -> np.ndarray:
        """A writable view of ``shape`` at ``offset`` bytes."""
        count = shape[0] * shape[1]
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)

    def release(self, offset: int = 0, length: int | None = None) -> None:
        """Drop resident pages of a file, all or those within a range; memory is left alone."""
        if self.on_disk:
            start = offset // mmap.PAGESIZE * mmap.PAGESIZE
            length = self.size - start if length is None else offset + length - start
            if length > 0:
                self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def shrink(self, size: int) -> None:
        """Give back everything from ``size`` bytes on."""
        start = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if start >= self.size:
            return
        if self.on_disk:
            # The mapping stays as long as it was; pages past the end of the file are never read.
            self.release()
            self._file.truncate(max(start, 1))
        else:
            self._map.madvise(mmap.MADV_DONTNEED, start, self.size - start)


@dataclass
class Rows:
    """Raw features of a shard, one slot per clip index, and which slots are filled."""

    present: np.ndarray  # bool[slots]
    buffer: Buffer  # rows of ``dim`` numbers of ``dtype``, one per slot
    dim: int
    dtype: np.dtype
    problems: list[str]  # sentences about rows that cannot be clustered, empty if all is well
    highest: float  # largest absolute value, 0.0 without rows

    def block(self, first: int, last: int) -> np.ndarray:
        """[rows, dim] of the filled slots among [first, last); a copy."""
        offset = first * self.dim * self.dtype.itemsize
        slots = self.buffer.rows(offset, (last - first, self.dim), self.dtype)
        return slots[self.present[first:last]]


def load(features: Sequence[Location], start: int, stop: int, budget: int) -> Rows:
    """Fill the slots [start, stop) from one folder, or from several joined side by side.

    Several modalities are L2-normalised each before they are joined, so that neither outweighs
    the other, and a clip that lacks one of them has no joint features.

    Args:
        budget: bytes of memory for the rows; beyond it they lie on local disk.
    """
    dims, dtypes = zip(*map(layout, features))
    joint, dim, slots = len(dims) > 1, sum(dims), stop - start
    dtype = np.dtype(np.float16) if joint else dtypes[0]
    buffer = Buffer(slots * dim * dtype.itemsize, budget)
    rows = buffer.rows(0, (slots, dim), dtype)
    present = np.ones(slots, bool)
    highest, problems, column = 0.0, [], 0
    for folder, width in zip(features, dims):
        seen = np.zeros(slots, bool)
        bad: list[int] = []
        twice: list[int] = []
        for index, values in batches(folder, start, stop):
            order = np.argsort(index, kind="stable")
            index, values = index[order], values[order]
            finite = np.isfinite(values).all(axis=1)
            bad += index[~finite].tolist()
            slot = index - start
            repeated = seen[slot] | np.concatenate([[False], slot[1:] == slot[:-1]])
            twice += index[repeated].tolist()
            seen[slot] = True
            values = np.where(finite[:, None], values, 0)
            rows[slot, column : column + width] = unit(values) if joint else values
            highest = max(highest, float(np.abs(values).max()))
            buffer.release()
        for clips, what, remedy in (
            (bad, "have NaN or infinite features", "embed them again or leave them out"),
            (twice, "occur more than once", "remove stale feature files"),
        ):
            if clips:
                shown = ", ".join(map(str, sorted(clips)[:_SHOWN])) + ", …" * (len(clips) > _SHOWN)
                found = f"{len(clips)} clips {what} in {folder}: clip_index {shown}"
                problems.append(f"{found}; {remedy}")
        present &= seen
        column += width
    return Rows(present, buffer, dim, dtype, problems, 1.0 if joint else highest)


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; a row of zeros stays."""
    values = np.asarray(values, np.float64)
    norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return values / np.where(norms > 0, norms, 1.0)


def _matrix(column: pa.ChunkedArray, part: Location) -> np.ndarray:
    """[m, d] of a column of fixed-size lists."""
    array = column.combine_chunks()
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    values = array.flatten()
    if array.null_count or values.null_count:
        raise UserError(f"{part} holds null features; leave such rows out")
    return values.to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
