"""What an index leaves, as tests look at it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.clips.indexing import REJECTS, IndexReport
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import SCHEMA, ClipTable
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.conftest import tiny


def table(run: Location) -> pa.Table:
    clips = ClipTable.open(run / "clips")
    return pa.concat_tables(clips.read_parts(SCHEMA.names))


def adds_up(report: IndexReport) -> bool:
    return report.listed == report.already_known + report.indexed + report.rejected


def rows_of(place: Location) -> list[tuple[str, str, str]]:
    """File name or row, stage and reason of every reject."""
    rejects = (place / REJECTS).read_table().to_pylist()
    return [(Path(row["uri"]).name, row["stage"], row["reason"]) for row in rejects]


def generated(place: Path, video: GeneratedVideo) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return write(place, video)


def decodes(run: Location) -> bool:
    """Whether the run's first clip has its picture."""
    clips = ClipTable.open(run / "clips").publish()
    batch = Slots(clips, Order(1, 1), tiny().clips, ("video",)).decoded(0)
    return bool(batch["has_video"].all())


def write_cuts(place: Path, *rows: str) -> str:
    place.write_text("\n".join(["uri,start_s,end_s", *rows]) + "\n")
    return str(place)
