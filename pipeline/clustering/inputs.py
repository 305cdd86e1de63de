"""Feature files: folders of Parquet parts with ``clip_index`` and ``features``, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clustering.buffer import Buffer
from pipeline.errors import UserError
from pipeline.storage import Location

_SHOWN = 10  # clip indices named in a message


@dataclass(frozen=True)
class Layout:
    """Width and type of the features of one folder."""

    dim: int
    dtype: np.dtype


def layout(folder: Location) -> Layout:
    """Read from the schema of the first part.

    Raises:
        UserError: no part at all, or columns that are not features.
    """
    for part in folder.files(".parquet"):
        with part.fs.open_input_file(part.path) as stream:
            schema = pq.read_schema(stream)
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
        return Layout(kind.list_size, np.dtype(np.float16 if half else np.float32))
    raise UserError(f"no feature files (*.parquet) in {folder}; embed the clips first")


def listing(features: Sequence[Location]) -> list[list[tuple[str, int]]]:
    """Names and sizes of the parts of every folder: tells new features from old ones."""
    return [
        [(i.base_name, i.size) for i in f.children() if i.base_name.endswith(".parquet")]
        for f in features
    ]


def batches(folder: Location, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows with ``start <= clip_index < stop``, a row group at a time.

    Row groups whose statistics exclude the range are not read, and features are read only where
    some row is wanted. Yields clip_index int64[m] and features [m, d] in the file's type.
    """
    for part in folder.files(".parquet"):
        with part.fs.open_input_file(part.path) as stream:
            file = pq.ParquetFile(stream)
            column = file.schema_arrow.get_field_index("clip_index")
            for group in range(file.metadata.num_row_groups):
                statistics = file.metadata.row_group(group).column(column).statistics
                if (
                    statistics is not None
                    and statistics.has_min_max
                    and (statistics.max < start or statistics.min >= stop)
                ):
                    continue
                index = file.read_row_group(group, ["clip_index"])["clip_index"].to_numpy()
                wanted = (index >= start) & (index < stop)
                if wanted.any():
                    table = file.read_row_group(group, ["features"])
                    yield index[wanted], _matrix(table["features"], part)[wanted]


def check_indices(features: Sequence[Location], num_clips: int) -> None:
    """Every clip index lies in [0, num_clips), as far as the files' statistics tell.

    Raises:
        UserError: naming the file.
    """
    for part in (part for folder in features for part in folder.files(".parquet")):
        with part.fs.open_input_file(part.path) as stream:
            file = pq.ParquetFile(stream)
            column = file.schema_arrow.get_field_index("clip_index")
            for group in range(file.metadata.num_row_groups):
                statistics = file.metadata.row_group(group).column(column).statistics
                if statistics is None or not statistics.has_min_max:
                    continue
                if statistics.min < 0 or statistics.max >= num_clips:
                    raise UserError(
                        f"{part} holds clip indices {statistics.min} to {statistics.max}, but there"
                        f" are {num_clips} clips: features and clips table do not belong together"
                    )


@dataclass
class Rows:
    """Raw features of a shard, one slot per clip index, and which slots are filled.

    Attributes:
        present: bool[slots].
        buffer: rows of ``dim`` numbers of ``dtype``, one per slot.
        problems: sentences about rows that cannot be clustered, empty if all is well.
        highest: largest absolute value, 0.0 without rows.
    """

    present: np.ndarray
    buffer: Buffer
    dim: int
    dtype: np.dtype
    problems: list[str]
    highest: float

    def block(self, first: int, last: int) -> np.ndarray:
        """[rows, dim] of the filled slots among [first, last); a copy."""
        offset = first * self.dim * self.dtype.itemsize
        slots = self.buffer.rows(offset, (last - first, self.dim), self.dtype)
        return slots[self.present[first:last]]


def load(
    features: Sequence[Location], start: int, stop: int, budget: int, scratch: str | None
) -> Rows:
    """Fill the slots [start, stop) from one folder, or from several joined side by side.

    Several modalities are L2-normalised each before they are joined, so that neither outweighs
    the other, and a clip that lacks one of them has no joint features.

    Args:
        budget: bytes of memory for the rows; beyond it they lie on local disk.
    """
    layouts = [layout(folder) for folder in features]
    joint = len(layouts) > 1
    dim = sum(one.dim for one in layouts)
    half = joint or all(one.dtype == np.float16 for one in layouts)
    dtype = np.dtype(np.float16 if half else np.float32)
    slots = stop - start
    buffer = Buffer(slots * dim * dtype.itemsize, budget, scratch)
    rows = buffer.rows(0, (slots, dim), dtype)
    present = np.ones(slots, bool)
    highest, problems, column = 0.0, [], 0
    for folder, one in zip(features, layouts):
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
            rows[slot, column : column + one.dim] = unit(values) if joint else values
            if len(values):
                highest = max(highest, float(np.abs(values).max()))
            buffer.release()
        problems += _complaints(folder, bad, twice)
        present &= seen
        column += one.dim
    return Rows(present, buffer, dim, dtype, problems, 1.0 if joint else highest)


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; a row of zeros stays."""
    values = np.asarray(values, np.float64)
    norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return values / np.where(norms > 0, norms, 1.0)


def _complaints(folder: Location, bad: list[int], twice: list[int]) -> list[str]:
    said = []
    if bad:
        said.append(
            f"{len(bad)} clips have NaN or infinite features in {folder}: clip_index "
            f"{_some(bad)}; embed them again or leave them out"
        )
    if twice:
        said.append(
            f"{len(twice)} clips occur more than once in {folder}: clip_index {_some(twice)}; "
            "remove stale feature files"
        )
    return said


def _some(indices: list[int]) -> str:
    shown = ", ".join(str(i) for i in sorted(indices)[:_SHOWN])
    return shown + (", …" if len(indices) > _SHOWN else "")


def _matrix(column: pa.ChunkedArray, part: Location) -> np.ndarray:
    """[m, d] of a column of fixed-size lists."""
    pieces = []
    for chunk in column.chunks:
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        values = array.flatten()
        if array.null_count or values.null_count:
            raise UserError(f"{part} holds null features; leave such rows out")
        numbers = values.to_numpy(zero_copy_only=False)
        pieces.append(numbers.reshape(len(array), array.type.list_size))
    return np.concatenate(pieces) if len(pieces) != 1 else pieces[0]
