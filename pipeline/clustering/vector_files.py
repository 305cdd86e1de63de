"""Vectors from elsewhere, .npy or Parquet, as the feature files that a clustering reads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError, parsing
from pipeline.storage import Location, check_claims

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
    infos = [part.info() for part in parts]
    source = [[str(part), info.size, info.mtime_ns] for part, info in zip(parts, infos)]
    in_numpy = vectors.name.endswith(".npy")
    if not in_numpy:
        with parsing(parts[0], "a Parquet file"):
            names = pq.read_schema(parts[0].path, filesystem=parts[0].fs).names
        if column not in names:
            raise UserError(
                f"{parts[0]} has no column {column!r}; name one of {', '.join(names)} with --column"
            )
        if column == "features" and "clip_index" in names and not vectors.info().is_file:
            return vectors, max(_rows(part.read_table(["clip_index"])) for part in parts)
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # or damaged
        if (made := mark.read_json())["source"] == source:
            return folder, int(made["rows"])
    folder.delete()
    rows = 0
    for number, table in enumerate(
        _from_npy(vectors) if in_numpy else _from_parquet(parts, column)
    ):
        (folder / f"part-{number:05d}.parquet").write_table(table)
        rows = max(rows, _rows(table))
    mark.write_json({"source": source, "rows": rows})
    return folder, rows


def _parts(vectors: Location) -> list[Location]:
    if not vectors.info().is_file:
        parts = list(vectors.files(".parquet"))
        if not parts:
            raise UserError(f"no vectors in {vectors}: give a .npy file or Parquet files")
        return parts
    if not vectors.name.endswith((".npy", ".parquet")):
        raise UserError(f"{vectors} is neither .npy nor .parquet")
    return [vectors]


def _rows(table: pa.Table) -> int:
    """One more than the highest clip index."""
    return int(table["clip_index"].to_numpy().max(initial=-1)) + 1


def _from_npy(place: Location) -> Iterator[pa.Table]:
    with parsing(place, "a .npy file"):
        if place.is_local:
            array = np.load(place.uri, mmap_mode="r", allow_pickle=False)
        else:
            array = np.load(io.BytesIO(place.read_bytes()), allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(f"{place} holds {array.dtype}{list(array.shape)}; want floats [n, d]")
    for start in range(0, len(array), _ROWS):
        some = array[start : start + _ROWS]
        yield _table(np.arange(start, start + len(some)), some)


def _batches(part: Location, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with parsing(part, "a Parquet file"):
        file = pq.ParquetFile(part.path, filesystem=part.fs)
        check_claims(file.metadata, part.info().size)
        batches = file.iter_batches(_ROWS, columns=columns)
    while True:
        with parsing(part, "a Parquet file"):
            batch = next(batches, None)
        if batch is None:
            file.close()
            return
        yield batch


def _from_parquet(parts: list[Location], column: str) -> Iterator[pa.Table]:
    start = 0
    for part in parts:
        for batch in _batches(part, ["clip_index", column]):
            with parsing(part, "a file of vectors"):
                lists = batch[column]
                values = lists.flatten().to_numpy(zero_copy_only=False)
                if not len(lists) or values.dtype.kind != "f" or len(values) % len(lists):
                    raise UserError(f"{part}: {column} must hold float lists of one length")
                index = np.arange(start, start + len(lists))
                start += len(lists)
                if "clip_index" in batch.schema.names:
                    index = batch["clip_index"].to_numpy(zero_copy_only=False)
                table = _table(index, values.reshape(len(lists), -1))
            yield table


def _table(index: np.ndarray, values: np.ndarray) -> pa.Table:
    kind = values.dtype if values.dtype in (np.float16, np.float32) else np.float32
    flat = pa.array(np.ascontiguousarray(values, kind).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table({"clip_index": pa.array(index.astype(np.int64)), "features": lists})
