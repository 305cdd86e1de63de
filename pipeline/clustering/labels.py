"""The label files: every clip of the table, in order, in parts of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.manifest import Entry, Manifest
from pipeline.storage import Location, as_parquet, from_parquet

ROWS_PER_PART = 1 << 20


def write_labels(
    out: Location, labels: np.ndarray, distances: np.ndarray, clips: Location | None
) -> dict[str, Entry]:
    """Write ``labels/part-*.parquet``: clip_index, clip_id (with a clips table), label, distance.

    Parts of an earlier clustering of more clips are removed. Returns the parts by path in `out`.

    Args:
        out: folder of the clustering.
        labels: int32[N], -1 where a clip has no features.
        distances: float32[N], Euclidean, in the space of the vectors; null in the file where
            the label is -1.
        clips: folder of the clips table, None to leave ``clip_id`` out.

    Raises:
        UserError: the clips table has not N rows.
    """
    entries: dict[str, Entry] = {}
    identifiers = None if clips is None else _clip_ids(clips, len(labels))
    for number, start in enumerate(range(0, len(labels), ROWS_PER_PART)):
        some = slice(start, min(start + ROWS_PER_PART, len(labels)))
        columns = {"clip_index": pa.array(np.arange(some.start, some.stop, dtype=np.int64))}
        if identifiers is not None:
            columns["clip_id"] = next(identifiers)
        columns["label"] = pa.array(labels[some])
        columns["distance"] = pa.array(distances[some], mask=labels[some] < 0)
        name, data = f"labels/part-{number:05d}.parquet", as_parquet(pa.table(columns))
        (out / name).write_bytes(data)
        entries[name] = Entry.of(data)
    for part in (out / "labels").files(".parquet"):
        if f"labels/{part.name}" not in entries:
            part.delete()
    return entries


def read_labels(out: Location, num_clips: int) -> np.ndarray:
    """int32[num_clips] from the label files, -1 = none, as for clips that came later.

    Raises:
        Damaged: a file is not as it was written.
        UserError: the files hold more clips, or there are none.
    """
    return read_columns(out, num_clips, ["label"])[0]


def read_columns(out: Location, num_clips: int, names: list[str]) -> list[np.ndarray]:
    """The named columns (label int32, distance float32 with NaN for null), each [num_clips]."""
    missing = {"label": np.int32(-1), "distance": np.float32(np.nan)}
    columns = [np.full(num_clips, missing[name]) for name in names]
    at = 0
    for table in _parts(out, names):
        if at + len(table) <= num_clips:
            for column, name in zip(columns, names):
                column[at : at + len(table)] = table[name].to_numpy()
        at += len(table)
    if not 0 < at <= num_clips:
        raise UserError(
            f"the label files in {out} hold {at} clips, not {num_clips}: "
            "they belong to another clips table"
        )
    return columns


def _parts(out: Location, names: list[str]) -> Iterator[pa.Table]:
    manifest = Manifest.read(out)
    if manifest is None:
        for part in (out / "labels").files(".parquet"):
            yield part.read_table(columns=names)
        return
    for name in sorted(name for name in manifest.files if name.startswith("labels/")):
        yield from_parquet(manifest.load(name), names)


def _clip_ids(clips: Location, num_clips: int) -> Iterator[pa.Array]:
    """clip_id of the clips table in pieces that match the label parts."""
    parts = list(clips.files(".parquet"))
    found = sum(pq.read_metadata(part.path, filesystem=part.fs).num_rows for part in parts)
    if found != num_clips:
        raise UserError(
            f"the clips table {clips} holds {found} clips, but {num_clips} were to be labelled"
        )
    held = pa.chunked_array([], pa.string())
    for part in parts:
        with pq.ParquetFile(part.path, filesystem=part.fs) as file:
            for batch in file.iter_batches(columns=["clip_id"]):
                held = pa.chunked_array([*held.chunks, batch.column(0).cast(pa.string())])
                while len(held) >= ROWS_PER_PART:
                    yield held[:ROWS_PER_PART].combine_chunks()
                    held = held[ROWS_PER_PART:]
    yield held.combine_chunks()
