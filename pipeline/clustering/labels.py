"""The label files: every clip of the table, in order, in parts of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.storage import Location

ROWS_PER_PART = 1 << 20


def write_labels(
    out: Location, labels: np.ndarray, distances: np.ndarray, clips: Location | None
) -> None:
    """Write ``labels/part-*.parquet``: clip_index, clip_id (with a clips table), label, distance.

    Args:
        out: folder of the clustering.
        labels: int32[N], -1 where a clip has no features.
        distances: float32[N], Euclidean, in the space of the vectors; null in the file where
            the label is -1.
        clips: folder of the clips table, None to leave ``clip_id`` out.

    Raises:
        UserError: the clips table has not N rows.
    """
    identifiers = _clip_ids(clips, len(labels)) if clips is not None else None
    for number, start in enumerate(range(0, len(labels), ROWS_PER_PART)):
        some = slice(start, min(start + ROWS_PER_PART, len(labels)))
        label = labels[some]
        columns = {"clip_index": pa.array(np.arange(some.start, some.stop, dtype=np.int64))}
        if identifiers is not None:
            columns["clip_id"] = next(identifiers)
        columns["label"] = pa.array(label)
        columns["distance"] = pa.array(distances[some], mask=label < 0)
        _part(out, number).write_table(pa.table(columns))
    if identifiers is not None and next(identifiers, None) is not None:
        raise _wrong_length(clips, len(labels))


def read_labels(out: Location, num_clips: int) -> np.ndarray:
    """int32[num_clips] from the label files, -1 = none.

    Raises:
        UserError: the files hold another number of clips, or there are none.
    """
    return read_columns(out, num_clips, ["label"])[0]


def read_columns(out: Location, num_clips: int, names: list[str]) -> list[np.ndarray]:
    """The named columns (label int32, distance float32 with NaN for null), each [num_clips]."""
    kinds = {"label": np.int32, "distance": np.float32}
    columns = [np.empty(num_clips, kinds[name]) for name in names]
    at = 0
    for part in (out / "labels").files(".parquet"):
        table = part.read_table(columns=names)
        if at + len(table) <= num_clips:
            for column, name in zip(columns, names):
                column[at : at + len(table)] = table[name].to_numpy()
        at += len(table)
    if at != num_clips:
        raise UserError(
            f"the label files in {out} hold {at} clips, not {num_clips}: "
            "they belong to another clips table"
        )
    return columns


def _part(out: Location, number: int) -> Location:
    return out / "labels" / f"part-{number:05d}.parquet"


def _clip_ids(clips: Location, num_clips: int) -> Iterator[pa.Array]:
    """clip_id of the clips table in pieces that match the label parts."""
    held: list[pa.Array] = []
    length = total = 0
    for part in clips.files(".parquet"):
        with part.fs.open_input_file(part.path) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(columns=["clip_id"]):
                held.append(batch.column(0).cast(pa.string()))
                length += len(batch)
                total += len(batch)
                while length >= ROWS_PER_PART:
                    joined = pa.concat_arrays(held)
                    yield joined[:ROWS_PER_PART]
                    held = [joined[ROWS_PER_PART:]]
                    length -= ROWS_PER_PART
    if total != num_clips:
        raise _wrong_length(clips, num_clips, total)
    if length:
        yield pa.concat_arrays(held)


def _wrong_length(clips: Location | None, num_clips: int, found: int | None = None) -> UserError:
    holds = "another number of" if found is None else f"{found}"
    return UserError(
        f"the clips table {clips} holds {holds} clips, but {num_clips} were to be labelled"
    )
