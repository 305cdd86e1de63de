"""Cuts tables become clips: each row is indexed once, or is a reject."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clips.indexing import REJECTS, index
from pipeline.clips.table import SCHEMA
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.clips.index_results import adds_up, rows_of, table, write_cuts
from tests.conftest import shared_media, tiny

pytestmark = pytest.mark.usefixtures("local_ray")


def test_cuts_table_becomes_the_clips_table(indexed: Location, world: Path) -> None:
    clips = table(indexed)
    assert clips.schema.equals(SCHEMA)
    assert clips["clip_index"].to_pylist() == list(range(48))
    assert len(set(clips["clip_id"].to_pylist())) == 48
    row = clips.slice(0, 1).to_pylist()[0]
    assert (row["width"], row["height"], row["fps"]) == (48, 48, 24)
    assert (row["has_video"], row["has_audio"], row["audio_rate"]) == (True, True, 16_000)
    with world.open() as stream:
        expected = [r["label"] for r in csv.DictReader(stream)]
    assert clips["label"].to_pylist() == expected
    assert all(Path(uri).is_file() for uri in clips["uri"].to_pylist())


def test_cuts_that_make_no_sense_are_rejected_one_by_one(world: Path, tmp_path: Path) -> None:
    media = next((world.parent / "media").glob("*.mp4"))
    cuts = tmp_path / "cuts.csv"
    rows = [f"{media},0.1,0.4", f"{media},0.5,0.5", f"{media},9,10", f"{media},,1", "gone.mp4,0,1"]
    cuts.write_text("\n".join(["uri,start_s,end_s", *rows]) + "\n")
    run = Location.of(tmp_path / "run")
    report = index(str(cuts), run, tiny())
    assert (report.unit, report.indexed, report.rejected) == ("cuts", 1, 4)
    assert report.reasons == {"bad_cut": 3, "missing": 1}


def test_glob_and_parquet_cuts(world: Path, tmp_path: Path) -> None:
    media = world.parent / "media"
    report = index(f"{media}/0000*.mp4", Location.of(tmp_path / "a"), tiny())
    assert report.clips == 10
    report = index(f"{media.parent}/**/00011.mp4", Location.of(tmp_path / "b"), tiny())
    assert report.clips == 1
    uris = [str(media / "00000.mp4")] * 2
    pq.write_table(
        pa.table({"uri": uris, "start_s": [0.0, 0.5], "end_s": [0.5, 1.0]}), tmp_path / "c.parquet"
    )
    assert index(str(tmp_path / "c.parquet"), Location.of(tmp_path / "c"), tiny()).clips == 2


def test_cuts_table_without_its_columns_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cuts.csv").write_text("file,begin\na.mp4,0\n")
    with pytest.raises(UserError, match=r"lacks the column.*uri, start_s, end_s"):
        index(str(tmp_path / "cuts.csv"), Location.of(tmp_path / "run"), tiny())


def test_an_earlier_reject_stays_when_another_table_names_the_same_file(
    file: Path, tmp_path: Path
) -> None:
    run = Location.of(tmp_path / "run")
    first = write_cuts(
        tmp_path / "a.csv", f"{file},100,105", f"{file},0,2", f"{file},x,2", f"{file},,"
    )
    report = index(first, run, tiny())
    assert (report.indexed, report.rejected) == (2, 2)
    rejects = [("f.mp4", "list", "bad_cut"), ("f.mp4", "probe", "bad_cut")]
    assert rows_of(run) == rejects
    second = write_cuts(tmp_path / "b.csv", f"{file},2,3", f"{file},100,105")
    report = index(second, run, tiny())
    assert adds_up(report)
    assert (report.already_known, report.indexed, report.rejected) == (1, 1, 0)
    assert rows_of(run) == rejects
    report = index(first, run, tiny(), retry_rejects=True)
    assert (report.already_known, report.rejected) == (2, 2)
    attempts = (run / REJECTS).read_table()["attempt"].to_pylist()
    assert (rows_of(run), attempts) == (rejects, [2, 2])


def test_files_and_cuts_in_one_table_are_indexed_once(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "media" / "g.mp4", GeneratedVideo())
    cuts = write_cuts(tmp_path / "a.csv", f"{file},,", f"{other},0,2", f"{file},1,2", "gone.mp4,,")
    run = Location.of(tmp_path / "run")
    report = index(cuts, run, tiny())
    assert adds_up(report)
    assert (report.indexed, report.clips, report.rejected) == (3, 3, 1)
    before = table(run)
    report = index(cuts, run, tiny())
    assert adds_up(report)
    assert (report.already_known, report.clips) == (3, 0), "what was missing is tried again"
    assert table(run).equals(before)


def test_a_cut_that_reaches_past_the_file_ends_with_it(file: Path, tmp_path: Path) -> None:
    rows = ["1,2", "3,9", "-5,1", "-1,1e9", "3.9,9", "9,12", "-3,-1", "3.7,3.9", "-9,0.001"]
    cuts = write_cuts(tmp_path / "a.csv", *(f"{file},{row}" for row in rows))
    run = Location.of(tmp_path / "run")
    report = index(cuts, run, tiny("index.min_s=0.5"))
    assert (report.indexed, report.shortened, report.reasons) == (5, 3, {"bad_cut": 4})
    windows = [(row["start_s"], row["end_s"]) for row in table(run).to_pylist()]
    assert windows == [
        pytest.approx(window, abs=0.06) for window in [(1, 2), (3, 4), (0, 1), (0, 4), (3.7, 3.9)]
    ]
    assert all(end <= 4.05 for _, end in windows)
    report = index(cuts, run, tiny("index.min_s=0.5"))
    assert (report.already_known, report.clips) == (9, 0)


def test_the_same_cut_twice_is_one_clip(file: Path, tmp_path: Path) -> None:
    rows = [f"{file},1,2", f"{file},1,2", "media/f.mp4,1.0,2.0", f"{file},x,2", f"{file},x,2"]
    report = index(write_cuts(tmp_path / "a.csv", *rows), Location.of(tmp_path / "run"), tiny())
    assert adds_up(report)
    assert (report.listed, report.repeated, report.clips, report.rejected) == (2, 3, 1, 1)


def test_a_cut_that_is_the_whole_file_is_one_clip_with_it(file: Path, tmp_path: Path) -> None:
    run = Location.of(tmp_path / "run")
    index(str(file), run, tiny())
    ((start, end),) = {(row["start_s"], row["end_s"]) for row in table(run).to_pylist()}
    rows = [f"{file},{start},{end}", "none.mp4,0,1", f"{file},,", f"{file},1,2"]
    run = Location.of(tmp_path / "again")
    report = index(write_cuts(tmp_path / "a.csv", *rows), run, tiny())
    assert adds_up(report)
    assert (report.indexed, report.clips) == (3, 2)
    assert len(set(table(run)["clip_id"].to_pylist())) == 2


def test_the_fields_cut_tables(tmp_path: Path) -> None:
    shutil.copytree(shared_media("field/15_cut_tables"), tmp_path / "tables")
    found = {}  # indexed and rejected
    for place in sorted((tmp_path / "tables").iterdir()):
        if place.suffix != ".mp4" and place.name != "dupcol.csv":
            run = Location.of(tmp_path / "runs" / place.name)
            report = index(str(place), run, tiny())
            assert adds_up(report)
            found[place.name] = (report.indexed, report.rejected)
            again = index(str(place), run, tiny())
            assert again.already_known + again.reasons.get("missing", 0) == report.listed
    assert found == {
        "A.csv": (1, 1),
        "B.csv": (0, 1),
        "empty_uri.csv": (1, 1),
        "hms.parquet": (0, 2),
        "http.csv": (1, 1),
        "inf.csv": (0, 2),
        "list_label.parquet": (1, 1),
        "mixed_files_cuts.csv": (2, 0),
        "nan.parquet": (1, 2),
        "neg.csv": (3, 4),
        "null_labels.csv": (1, 6),
        "ok.CSV": (1, 0),
        "past_end.csv": (1, 1),
        "spark.parquet": (1, 0),
    }
    with pytest.raises(UserError, match="uri more than once"):
        index(str(tmp_path / "tables" / "dupcol.csv"), Location.of(tmp_path / "run"), tiny())
