"""Vectors from elsewhere, .npy or Parquet, as the feature files that a clustering reads."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.storage import Location

_ROWS = 1 << 16


def as_features(vectors: Location, column: str, folder: Location) -> tuple[Location, int]:
    """A folder of feature files and the number of clip indices.

    A folder that already holds ``clip_index`` and ``features`` is used as it is. Anything else is
    written to ``folder``, once: a folder with the mark of a finished conversion is taken as is.

    Args:
        vectors: ``.npy`` [n, d], a Parquet file, or a folder of them.
        column: of the vectors in Parquet.
        folder: where converted files go.

    Raises:
        UserError: nothing there that could be read as vectors.
    """
    parts = _parts(vectors)
    mark = folder / "converted.json"
    source = [[str(part), part.info().size] for part in parts]
    if not vectors.name.endswith(".npy"):
        with parts[0].fs.open_input_file(parts[0].path) as stream:
            names = pq.read_schema(stream).names
        if column not in names:
            raise UserError(
                f"{parts[0]} has no column {column!r}; name one of {', '.join(names)} with --column"
            )
        if column == "features" and "clip_index" in names and not _is_file(vectors):
            return vectors, _highest_index(parts) + 1
    if mark.exists() and mark.read_json()["source"] == source:
        return folder, int(mark.read_json()["rows"])
    folder.delete()
    rows = 0
    tables = _from_npy(parts[0]) if vectors.name.endswith(".npy") else _from_parquet(parts, column)
    for number, table in enumerate(tables):
        (folder / f"part-{number:05d}.parquet").write_table(table)
        rows = max(rows, int(table["clip_index"].to_numpy().max(initial=-1)) + 1)
    mark.write_json({"source": source, "rows": rows})
    return folder, rows


def _parts(vectors: Location) -> list[Location]:
    if _is_file(vectors):
        if vectors.name.endswith((".npy", ".parquet")):
            return [vectors]
        raise UserError(f"{vectors} is neither .npy nor .parquet")
    parts = list(vectors.files(".parquet"))
    if not parts:
        raise UserError(f"no vectors in {vectors}: give a .npy file or Parquet files")
    return parts


def _is_file(place: Location) -> bool:
    return bool(place.info().is_file)


def _highest_index(parts: list[Location]) -> int:
    highest = -1
    for part in parts:
        index = part.read_table(["clip_index"])["clip_index"].to_numpy()
        highest = max(highest, int(index.max(initial=-1)))
    return highest


def _from_npy(place: Location) -> Iterator[pa.Table]:
    if place.is_local:
        array = np.load(place.uri, mmap_mode="r", allow_pickle=False)
    else:
        array = np.load(io.BytesIO(place.read_bytes()), allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(f"{place} holds {array.dtype}{list(array.shape)}; want floats [n, d]")
    for start in range(0, len(array), _ROWS):
        some = np.asarray(array[start : start + _ROWS])
        yield _table(np.arange(start, start + len(some)), some)


def _from_parquet(parts: list[Location], column: str) -> Iterator[pa.Table]:
    start = 0
    for part in parts:
        with part.fs.open_input_file(part.path) as stream:
            file = pq.ParquetFile(stream)
            indexed = "clip_index" in file.schema_arrow.names
            names = ["clip_index", column] if indexed else [column]
            for batch in file.iter_batches(_ROWS, columns=names):
                lists = batch.column(names.index(column))
                values = lists.flatten().to_numpy(zero_copy_only=False)
                if not len(lists) or values.dtype.kind != "f" or len(values) % len(lists):
                    raise UserError(f"{part}: {column} must hold float lists of one length")
                index = np.arange(start, start + len(lists))
                start += len(lists)
                if indexed:
                    index = batch.column(0).to_numpy(zero_copy_only=False)
                yield _table(index, values.reshape(len(lists), -1))


def _table(index: np.ndarray, values: np.ndarray) -> pa.Table:
    kind = values.dtype if values.dtype in (np.float16, np.float32) else np.float32
    flat = pa.array(np.ascontiguousarray(values, kind).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table({"clip_index": pa.array(index.astype(np.int64)), "features": lists})
