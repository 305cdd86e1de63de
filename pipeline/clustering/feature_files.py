"""Feature files: Parquet parts with ``clip_index`` and ``features``, sealed or from elsewhere.

A folder with a manifest (manifest.py) has the parts that it names. Each is read whole, and its
digest must fit. Its clip indices are known from the manifest, so that others are not opened. A
folder without one has all its Parquet files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.manifest import Manifest
from pipeline.storage import Location

Bounds = tuple[int, int]  # least and highest clip index
_AHEAD = 2  # parts that are read while one is used: their bytes are held


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

    @contextmanager
    def opened(self, part: str, data: bytes | None = None) -> Iterator[pq.ParquetFile]:
        """A part, or that of which `data` is the content.

        Raises:
            Damaged: it is not as it was written.
        """
        if self.manifest is not None:
            with pq.ParquetFile(pa.BufferReader(data or self.manifest.load(part))) as file:
                yield file
            return
        place = self.folder / part
        with pq.ParquetFile(
            place.path, filesystem=place.fs, page_checksum_verification=True
        ) as file:
            yield file

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
    with of_it.opened(name) as file:
        schema, part = file.schema_arrow, folder / name
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
    """Rows with ``start <= clip_index < stop``, a row group at a time.

    What is known to lie outside the range is not read. Yields clip_index int64[m] and features
    [m, d] in the file's type.
    """
    for part, file, group, known in _groups(folder, (start, stop)):
        if known and (known[1] < start or known[0] >= stop):
            continue
        index = file.read_row_group(group, ["clip_index"])["clip_index"].to_numpy()
        wanted = (index >= start) & (index < stop)
        if wanted.any():
            column = file.read_row_group(group, ["features"])["features"]
            yield index[wanted], _matrix(column, part)[wanted]


def check_indices(features: Sequence[Location], num_clips: int) -> None:
    """Every clip index lies in [0, num_clips), as far as manifests or statistics tell.

    Raises:
        UserError: naming the file.
    """
    for folder in map(FeatureFolder, features):
        known = [(folder.folder / part, folder.bounds(part)) for part in folder.parts()]
        if folder.manifest is None:
            known = [(part, bounds) for part, _, _, bounds in _groups(folder.folder)]
        for part, bounds in known:
            if bounds and (bounds[0] < 0 or bounds[1] >= num_clips):
                raise UserError(
                    f"{part} holds clip indices {bounds[0]} to {bounds[1]}, but there are "
                    f"{num_clips} clips: features and clips table do not belong together"
                )


def _groups(
    folder: Location, within: tuple[int, int] | None = None
) -> Iterator[tuple[Location, pq.ParquetFile, int, Bounds | None]]:
    """Every row group: part, open file, number, and bounds where known.

    Parts that are known to lie outside `within` (start, stop) are not opened.
    """
    of_it = FeatureFolder(folder)
    for name, file in _opened(of_it, [n for n in of_it.parts() if _may_hold(of_it, n, within)]):
        column = file.schema_arrow.get_field_index("clip_index")
        for group in range(file.metadata.num_row_groups):
            found = file.metadata.row_group(group).column(column).statistics
            known = found is not None and found.has_min_max
            yield folder / name, file, group, (found.min, found.max) if known else None


def _may_hold(folder: FeatureFolder, part: str, within: tuple[int, int] | None) -> bool:
    bounds = folder.bounds(part)
    return not (bounds and within) or (bounds[1] >= within[0] and bounds[0] < within[1])


def _opened(folder: FeatureFolder, parts: list[str]) -> Iterator[tuple[str, pq.ParquetFile]]:
    """The parts one after another; of sealed ones the next few are being read meanwhile."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        coming = deque[tuple[str, Future[bytes] | None]]()
        for number in range(len(parts) + _AHEAD):
            if number < len(parts):
                name, manifest = parts[number], folder.manifest
                coming.append((name, pool.submit(manifest.load, name) if manifest else None))
            if number >= _AHEAD:
                name, data = coming.popleft()
                with folder.opened(name, data.result() if data else None) as file:
                    yield name, file


def _matrix(column: pa.ChunkedArray, part: Location) -> np.ndarray:
    """[m, d] of a column of fixed-size lists."""
    array = column.combine_chunks()
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    values = array.flatten()
    if array.null_count or values.null_count:
        raise UserError(f"{part} holds null features; leave such rows out")
    return values.to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
