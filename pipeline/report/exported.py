"""The report's tables for other tools: clips.parquet and rejects.csv."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.clips import rejects
from pipeline.clips.indexing import REJECTS
from pipeline.report.seen import Seen
from pipeline.report.shown import ShownClips
from pipeline.run import Run
from pipeline.storage import Location

CLIPS, REJECTED = "clips.parquet", "rejects.csv"
_ON_PAGE = 2000  # rejects
_ORDER = ("stage", "reason", "uri", "clip_id", "detail", "attempt")
# A spreadsheet takes a cell that begins so for a formula, and the cells come from names of files.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_clips(
    out: Location,
    shown: ShownClips,
    last: Mapping[str, Seen],
    places: Mapping[str, np.ndarray],
    media: Sequence[str | None],
) -> None:
    """``clips.parquet``: a row for every shown clip, which embedding-atlas and Spotlight open.

    Columns: ``clip_index``, ``clip_id``, ``uri``, ``start_s``, ``end_s``, ``label``, ``split``; of
    every clustering of the last round ``<name>_cluster``; of every modality with features
    ``<modality>_x`` and ``_y``, its place on the map; ``thumbnail``, the path of a picture in this
    folder, null where there is none.

    Args:
        last: the newest clustering by name. places: float32 [n, 2] by modality.
        media: thumbnail of each clip.
    """
    rows = shown.rows.drop_columns(["has_video", "has_audio"])
    columns: dict[str, Any] = {"clip_index": pa.array(shown.index)}
    columns |= {name: rows[name] for name in rows.column_names}
    for name, seen in last.items():
        columns[f"{name}_cluster"] = pa.array(seen.labels, mask=seen.labels < 0)
    for modality, place in places.items():
        for at, axis in enumerate("xy"):
            columns[f"{modality}_{axis}"] = pa.array(place[:, at], mask=np.isnan(place[:, at]))
    columns["thumbnail"] = pa.array(media, pa.string())
    (out / CLIPS).write_table(pa.table(columns))


def write_rejects(out: Location, run: Run) -> dict[str, Any]:
    """``rejects.csv``: every reject of the index and of the rounds; returns what the page shows."""
    sink, total, rows = io.BytesIO(), 0, list[list[Any]]()
    writer = None
    for table in _reject_tables(run):
        table = pa.table({name: _safe(table[name]) for name in _ORDER})
        if writer is None:
            writer = pyarrow.csv.CSVWriter(sink, table.schema)
        writer.write_table(table)
        total += len(table)
        some = table.slice(0, _ON_PAGE - len(rows)).to_pylist()
        rows += [[row[name] for name in _ORDER] for row in some]
    if writer is None:
        schema = pa.schema([rejects.SCHEMA.field(name) for name in _ORDER])
        writer = pyarrow.csv.CSVWriter(sink, schema)
    writer.close()
    (out / REJECTED).write_bytes(sink.getbuffer())
    return {"total": total, "rows": rows}


def _safe(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    texts = [
        f"'{text}" if text is not None and text.startswith(_FORMULA) else text
        for text in column.to_pylist()
    ]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _reject_tables(run: Run) -> Iterator[pa.Table]:
    if (run.location / REJECTS).exists():
        yield (run.location / REJECTS).read_table(list(_ORDER))
    for number in range((run.last_round() or 0) + 2):  # of the round at work, too
        for part in run.round(number).rejects.files(".parquet"):
            yield part.read_table(list(_ORDER))
