"""The rejects of an index, as inputs are tried again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.clips.chunks import rejected_row, rejects_table
from pipeline.clips.input_keys import reject_keys
from pipeline.clips.reject_table import RejectTable
from pipeline.clips.rejects import Reason, Reject
from pipeline.errors import UserError
from pipeline.storage import Location

BAD, AWAY = Reject(Reason.CORRUPT, "it is damaged"), Reject(Reason.MISSING, "it is gone")
CUT = "0123456789abcdef"


def row(uri: str, cut: str | None = None, why: Reject = BAD, lost: str | None = None) -> Any:
    return rejected_row("probe", uri, cut, why, lost)


def keys(*rows: Any) -> np.ndarray:
    return reject_keys(rejects_table(rows))[0]


def seen(table: pa.Table) -> list[tuple[str, str | None, str | None, int]]:
    names = ("uri", "clip_id", "modality", "attempt")
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def test_rejects_of_other_inputs_stay_and_attempts_are_counted(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "r.parquet")
    first = [row("/a"), row("/b", why=AWAY), row("/b", CUT, AWAY), row("/c", lost="audio")]
    table = RejectTable(place)
    new = table.replace(keys(*first), rejects_table([*first, row("/a")]))
    assert seen(new) == [(each["uri"], each["clip_id"], each["modality"], 1) for each in first]
    table.write()
    table = RejectTable(place)
    tried = keys(row("/b"), row("/b", CUT), row("/d"))
    new = table.replace(tried, rejects_table([row("/b", CUT, AWAY), row("/d")]))
    assert seen(new) == [("/b", CUT, None, 2), ("/d", None, None, 1)]
    table.write()
    assert seen(RejectTable(place).rows) == [
        ("/a", None, None, 1),
        ("/c", None, "audio", 1),
        ("/b", CUT, None, 2),
        ("/d", None, None, 1),
    ]


def test_a_lost_modality_of_a_file_counts_once_whatever_segments_its_cuts_are_in(
    tmp_path: Path,
) -> None:
    place = Location.of(tmp_path / "r.parquet")
    lost = row("/a", lost="audio")
    for attempt in (1, 2):
        table = RejectTable(place)
        # Two segments with cuts of the file, then the file itself.
        assert seen(table.replace(keys(row("/a", CUT)), rejects_table([lost, lost]))) == [
            ("/a", None, "audio", attempt)
        ]
        assert not len(table.replace(keys(row("/a", CUT[::-1])), rejects_table([lost])))
        both = rejects_table([lost, row("/a", lost="video")])
        assert seen(table.replace(keys(row("/a")), both)) == [("/a", None, "video", attempt)]
        table.write()
        assert sorted(seen(table.rows)) == [
            ("/a", None, "audio", attempt),
            ("/a", None, "video", attempt),
        ]


def test_a_table_of_something_else_is_one_line(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "r.parquet")
    place.write_table(rejects_table([row("/a")]).drop_columns(["detail"]))
    with pytest.raises(UserError, match="delete it, and what it holds is tried again"):
        RejectTable(place)
