"""Feature files: Parquet parts with ``clip_index`` and ``features``, sealed or from elsewhere.

A folder with a manifest (manifest.py) has the parts that it names. Their clip indices are known
from it, so that others are not opened. A part of which all is wanted is read whole, and its digest
must fit; of another its range is read (sealed_parquet.py): training's own features lie in any order
over all parts. A folder without a manifest has all its Parquet files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import sealed_parquet
from pipeline.errors import UserError
from pipeline.manifest import Manifest
from pipeline.storage import Location, from_parquet

Bounds = tuple[int, int]  # least and highest clip index
Features = tuple[np.ndarray, np.ndarray]  # clip indices int64 [n], ascending, and float [n, d]
# Parts that are read while one is used: so many at once, and about so many bytes.
_REQUESTS, _HELD_BYTES = 16, 64 * 2**20


@dataclass(frozen=True)
class FeatureFolder:
    """One modality's features."""

    folder: Location

    @cached_property
    def manifest(self) -> Manifest | None:
        """Raises Damaged if it is not as it was written."""
        return Manifest.read(self.folder)

    def parts(self) -> list[str]:
        """Names of the parts, in order."""
        if self.manifest is not None:
            return sorted(self.manifest.files)
        return [place.name for place in self.folder.files(".parquet")]

    def schema(self, part: str) -> pa.Schema:
        """Raises Damaged if the part is not as it was written."""
        if self.manifest is None:
            with self.opened(part) as file:
                return file.schema_arrow
        if sealed_parquet.has_ranges(self.manifest.files[part]):
            return sealed_parquet.schema(self.manifest, part)
        return pq.read_schema(pa.BufferReader(self.manifest.load(part)))

    def opened(self, part: str) -> pq.ParquetFile:
        """A part of a folder without a manifest."""
        place = self.folder / part
        return pq.ParquetFile(place.path, filesystem=place.fs, page_checksum_verification=True)

    def rows(self, part: str, start: int, stop: int) -> pa.Table:
        """A sealed part's rows with ``start <= clip_index < stop``, and maybe others.

        Raises:
            Damaged: what was read is not as it was written.
        """
        assert self.manifest is not None
        entry = self.manifest.files[part]
        within = start <= entry.notes["first"] and entry.notes["last"] < stop
        if within or not sealed_parquet.has_ranges(entry):
            return from_parquet(self.manifest.load(part))
        return sealed_parquet.read_range(self.manifest, part, "clip_index", start, stop)

    def takes(self, part: str, start: int, stop: int) -> int:
        """About how many bytes `rows` reads."""
        assert self.manifest is not None
        entry = self.manifest.files[part]
        first, last = entry.notes["first"], entry.notes["last"] + 1
        shared = (min(stop, last) - max(start, first)) / (last - first)
        return int(entry.size * shared) if sealed_parquet.has_ranges(entry) else entry.size

    def bounds(self, part: str) -> Bounds | None:
        """Of the part's clip indices, where the manifest knows them."""
        if self.manifest is None:
            return None
        notes = self.manifest.files[part].notes
        return notes["first"], notes["last"]


def layout(folder: Location) -> tuple[int, np.dtype]:
    """Width and type (float16 or float32) of the features, from the schema of the first part.

    Raises:
        UserError: no part at all, or columns that are not features.
    """
    of_it = FeatureFolder(folder)
    name = next(iter(of_it.parts()), None)
    if name is None:
        raise UserError(f"no feature files (*.parquet) in {folder}; embed the clips first")
    schema, part = of_it.schema(name), folder / name
    for column in ("clip_index", "features"):
        if column not in schema.names:
            raise UserError(
                f"{part} has no column {column!r} (columns: {', '.join(schema.names)}); "
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


def batches(folder: Location, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows with ``start <= clip_index < stop``, a part or row group at a time.

    What is known to lie outside the range is not read. Yields clip_index int64[m] and features
    [m, d] in the file's type.
    """
    of_it = FeatureFolder(folder)
    tables = (
        _of_groups(of_it, start, stop) if of_it.manifest is None else _ahead(of_it, start, stop)
    )
    for part, table in tables:
        index = table["clip_index"].to_numpy()
        wanted = (index >= start) & (index < stop)
        if wanted.any():
            yield index[wanted], _matrix(table["features"], part)[wanted]


def read_range(folder: Location, start: int, stop: int) -> Features:
    """The features of a range of clips. Raises Damaged if a shard is not as it was written."""
    pieces = list(batches(folder, start, stop))
    if not pieces:
        return np.zeros(0, np.int64), np.zeros((0, 1), np.float16)
    index, values = (np.concatenate(each) for each in zip(*pieces))
    order = np.argsort(index)
    return index[order], values[order]


def check_indices(features: Sequence[Location], num_clips: int) -> None:
    """Every clip index lies in [0, num_clips), as far as manifests or statistics tell.

    Raises:
        UserError: naming the file.
    """
    for folder in map(FeatureFolder, features):
        known = [(folder.folder / part, folder.bounds(part)) for part in folder.parts()]
        if folder.manifest is None:
            known = [(part, bounds) for part, _, _, bounds in _groups(folder)]
        for part, bounds in known:
            if bounds and (bounds[0] < 0 or bounds[1] >= num_clips):
                raise UserError(
                    f"{part} holds clip indices {bounds[0]} to {bounds[1]}, but there are "
                    f"{num_clips} clips: features and clips table do not belong together"
                )


def _ahead(folder: FeatureFolder, start: int, stop: int) -> Iterator[tuple[Location, pa.Table]]:
    """Sealed parts that may have rows of the range; the next few are being read meanwhile."""
    bounds = {part: folder.bounds(part) for part in folder.parts()}
    todo = deque(part for part, known in bounds.items() if _overlap(known, start, stop))
    coming, held = deque[tuple[str, Future[pa.Table]]](), 0
    with ThreadPoolExecutor(_REQUESTS) as pool:
        while todo or coming:
            while todo and (not coming or (held < _HELD_BYTES and len(coming) < _REQUESTS)):
                part = todo.popleft()
                held += folder.takes(part, start, stop)
                coming.append((part, pool.submit(folder.rows, part, start, stop)))
            part, table = coming.popleft()
            yield folder.folder / part, table.result()
            held -= folder.takes(part, start, stop)


def _of_groups(folder: FeatureFolder, start: int, stop: int) -> Iterator[tuple[Location, pa.Table]]:
    """The same of a folder without a manifest, by row groups."""
    for part, file, group, known in _groups(folder):
        if _overlap(known, start, stop):
            yield part, file.read_row_group(group, ["clip_index", "features"])


def _groups(
    folder: FeatureFolder,
) -> Iterator[tuple[Location, pq.ParquetFile, int, Bounds | None]]:
    """Every row group: part, open file, number, and bounds where known."""
    for part in folder.parts():
        with folder.opened(part) as file:
            column = file.schema_arrow.get_field_index("clip_index")
            for group in range(file.metadata.num_row_groups):
                found = file.metadata.row_group(group).column(column).statistics
                known = found is not None and found.has_min_max
                yield folder.folder / part, file, group, (found.min, found.max) if known else None


def _overlap(bounds: Bounds | None, start: int, stop: int) -> bool:
    return bounds is None or (bounds[1] >= start and bounds[0] < stop)


def _matrix(column: pa.ChunkedArray, part: Location) -> np.ndarray:
    """[m, d] of a column of fixed-size lists."""
    array = column.combine_chunks()
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    values = array.flatten()
    if array.null_count or values.null_count:
        raise UserError(f"{part} holds null features; leave such rows out")
    return values.to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
