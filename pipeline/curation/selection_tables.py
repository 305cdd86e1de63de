"""The two tables of a selection: the clips to keep, a cuts table, and those left out, with reasons.

Both are written by parts of the clips table, and appear whole. The table of what is kept comes
last: where it is, the selection is finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clips.table import ClipTable
from pipeline.curation.verdicts import Verdicts, reasons_of
from pipeline.errors import UserError
from pipeline.lease import check_held
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress

_COPIED = ["clip_id", "uri", "start_s", "end_s", "label", "split"]
_NOTES = b"selection"  # key of what the file's footer says of it

# What is kept has the first six.
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),  # of the clip in its run
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),  # copied, never looked at
        ("split", pa.string()),
        ("reason", pa.string()),  # one of the reasons of `jobs/curate.py`
        ("cluster", pa.string()),  # of `excluded`: the cluster that was named; null: the clip was
        ("duplicate_of", pa.string()),  # of `duplicate`: the clip that stands for it
        ("cosine", pa.float32()),  # with that clip, the least over the modalities
        ("agreement", pa.float32()),  # of picture and sound, where it was asked for
    ]
)
KEPT = pa.schema([SCHEMA.field(name) for name in _COPIED])


def beside(out: Location) -> Location:
    """Where the table of what is left out lies.

    Raises:
        UserError: `out` is no Parquet file's name.
    """
    if not out.name.endswith(".parquet") or out.name == ".parquet":
        raise UserError(f"OUT is a file, as in kept.parquet, and not {out}")
    return Location(out.uri.removesuffix(".parquet") + ".dropped.parquet", out.query)


def finished(out: Location) -> dict[str, Any] | None:
    """What a finished selection notes of itself (`write_tables`); None where there is none.

    Raises:
        UserError: there is another file in its place.
    """
    if not out.exists():
        return None

    def footer(fs: Any, path: str) -> dict[bytes, bytes]:
        with fs.open_input_file(path) as stream:
            return pq.read_metadata(stream).metadata or {}

    try:
        found: dict[str, Any] = json.loads(out.patiently(footer)[_NOTES])
    except (pa.ArrowException, KeyError, ValueError):
        raise UserError(f"{out} is there, and not of jobs/curate.py: name another OUT") from None
    return found if beside(out).exists() else None


def write_tables(
    out: Location,
    clips: ClipTable,
    verdicts: Verdicts,
    clusters: Sequence[str],
    notes: dict[str, Any],
) -> None:
    """Write both tables.

    Args:
        clusters: names of those that `Verdicts.named` numbers.
        notes: go into both files' footers; plain values.
    """
    rows = _LeftOutRows(clips, verdicts, clusters)
    metadata = {_NOTES: json.dumps(notes, sort_keys=True).encode()}
    with Progress("write", len(clips), "clips") as progress, ExitStack() as stack:
        # Left in the other order: what is kept comes last.
        kept = stack.enter_context(out.writing())
        kept_rows = stack.enter_context(_parquet(kept, KEPT.with_metadata(metadata)))
        dropped = stack.enter_context(beside(out).writing())
        dropped_rows = stack.enter_context(_parquet(dropped, SCHEMA.with_metadata(metadata)))
        for start, part in zip(clips.offsets.tolist(), clips.read_parts(_COPIED)):
            keep = verdicts.kept[start : start + len(part)]
            kept_rows.write_table(part.filter(pa.array(keep)).cast(KEPT))
            dropped_rows.write_table(rows.left_out(part, start))
            progress.meter.add(done=len(part))
        check_held()


def _parquet(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)


class _LeftOutRows:
    """The rows of what is left out."""

    def __init__(self, clips: ClipTable, verdicts: Verdicts, clusters: Sequence[str]) -> None:
        self.verdicts = verdicts
        self.clusters = pa.array(clusters, pa.string())
        # Once for all parts: the clips that others are duplicates of lie all over the table.
        self.stand, self.place = np.unique(verdicts.kept_for, return_inverse=True)
        ids = clips.rows(self.stand, ["clip_id"])["clip_id"] if len(self.stand) else None
        self.ids = ids.combine_chunks() if ids is not None else pa.array([], pa.string())

    def left_out(self, part: pa.Table, start: int) -> pa.Table:
        """`SCHEMA`, of a part of the clips table that begins with the clip `start`."""
        verdicts = self.verdicts
        out = np.flatnonzero(~verdicts.kept[start : start + len(part)])
        clips = start + out
        columns = dict(zip(_COPIED, part.select(_COPIED).take(pa.array(out)).columns))
        columns["reason"] = reasons_of(verdicts.code[clips])
        columns["cluster"] = self._clusters(clips)
        columns |= self._duplicates(clips)
        columns["agreement"] = pa.nulls(len(clips), pa.float32())
        if verdicts.agreement is not None:
            scores = verdicts.agreement[clips]
            columns["agreement"] = pa.array(scores, mask=np.isnan(scores))
        return pa.table(columns, schema=SCHEMA)

    def _clusters(self, clips: np.ndarray) -> pa.Array:
        if self.verdicts.named is None:
            return pa.nulls(len(clips), pa.string())
        named = self.verdicts.named[clips]
        return self.clusters.take(pa.array(named, mask=named < 0))

    def _duplicates(self, clips: np.ndarray) -> dict[str, pa.Array]:
        verdicts = self.verdicts
        at = np.searchsorted(verdicts.duplicate, clips)
        at = np.minimum(at, max(len(verdicts.duplicate) - 1, 0))
        none = np.ones(len(clips), bool)
        if len(verdicts.duplicate):
            none = verdicts.duplicate[at] != clips
            place, cosine = self.place[at], verdicts.cosine[at]
        else:
            place, cosine = np.zeros(len(clips), np.int64), np.zeros(len(clips), np.float32)
        stand = self.ids.take(pa.array(place, mask=none))
        return {"duplicate_of": stand, "cosine": pa.array(cosine, mask=none)}
