from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clips.indexing import REJECTS, IndexReport, index
from pipeline.clips.table import SCHEMA, ClipTable
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.conftest import s3_uri, shared_media, tiny

pytestmark = pytest.mark.usefixtures("local_ray")


def table(run: Location) -> pa.Table:
    clips = ClipTable.open(run / "clips")
    return pa.concat_tables(clips.read_parts(SCHEMA.names))


def adds_up(report: IndexReport) -> bool:
    return report.listed == report.already_known + report.indexed + report.rejected


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


def test_files_are_cut_into_equal_windows(world: Path, tmp_path: Path) -> None:
    run = Location.of(tmp_path)
    report = index(str(world.parent / "media"), run, tiny("index.window_s=0.5"))
    assert (report.unit, report.listed, report.rejected) == ("files", 48, 0)
    clips = table(run).to_pylist()
    assert report.clips == len(clips) == 96  # 1.2 s hold two windows of half a second or more
    assert clips[0]["uri"] == clips[1]["uri"]
    assert clips[0]["end_s"] == clips[1]["start_s"]
    assert clips[0]["start_s"] == pytest.approx(0, abs=0.06)
    assert clips[1]["end_s"] == pytest.approx(1.2, abs=0.06)


def test_appending_keeps_every_clip_index(world: Path, tmp_path: Path) -> None:
    run, media = Location.of(tmp_path / "run"), tmp_path / "media"
    media.mkdir()
    files = sorted((world.parent / "media").glob("*.mp4"))
    for place in files[10:14]:
        shutil.copy(place, media)
    index(str(media), run, tiny())
    before = table(run)
    for place in files[:5]:
        shutil.copy(place, media)
    (media / "broken.mp4").write_bytes(b"not a film")
    report = index(str(media), run, tiny())
    assert (report.listed, report.already_known, report.indexed, report.rejected) == (10, 4, 5, 1)
    after = table(run)
    assert after.slice(0, 4).equals(before)
    assert after["clip_index"].to_pylist() == list(range(9))
    again = index(str(media), run, tiny())
    assert (again.already_known, again.clips, again.total_clips) == (10, 0, 9)


def test_rejects_have_reasons_and_can_be_tried_again(world: Path, tmp_path: Path) -> None:
    run, media = Location.of(tmp_path / "run"), tmp_path / "media"
    media.mkdir()
    (media / "empty.mp4").write_bytes(b"")
    (media / "text.txt").write_text("to be or not to be, that is the question")
    (media / ".hidden").write_text("not listed")
    report = index(str(media), run, tiny())
    assert adds_up(report)
    assert report.reasons == {"empty_file": 1, "not_media": 1}
    shutil.copy(next((world.parent / "media").glob("*.mp4")), media / "empty.mp4")
    report = index(str(media), run, tiny(), retry_rejects=True)
    assert (report.indexed, report.rejected) == (1, 1)
    rejects = (run / REJECTS).read_table().to_pylist()
    assert [(Path(r["uri"]).name, r["reason"], r["attempt"]) for r in rejects] == [
        ("text.txt", "not_media", 2)
    ]


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


def test_bucket_to_bucket(world: Path, s3: str) -> None:
    files = sorted((world.parent / "media").glob("*.mp4"))[:6]
    bucket = Location.of(s3_uri("media/videos", s3))
    for place in files:
        (bucket / "deep" / place.name).write_bytes(place.read_bytes())
    (bucket / "notes.txt").write_text("these are not videos, only notes about them")
    run = Location.of(s3_uri("media/runs/a", s3))
    report = index(bucket.full_uri, run, tiny())
    assert (report.listed, report.indexed, report.rejected) == (7, 6, 1)
    assert len(ClipTable.open(run / "clips")) == 6


@pytest.mark.parametrize(
    ("source", "words"),
    [("nowhere/at/all", "nothing at"), ("{empty}", "no files in"), ("{empty}/*.mp4", "no file")],
)
def test_nothing_to_index_is_a_clear_error(source: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        index(source.format(empty=tmp_path / "empty"), Location.of(tmp_path / "run"), tiny())


def test_missing_bucket_is_a_clear_error(s3: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bucket"):
        index(s3_uri("no-such-bucket/videos", s3), Location.of(tmp_path), tiny())


def test_cuts_table_without_its_columns_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cuts.csv").write_text("file,begin\na.mp4,0\n")
    with pytest.raises(UserError, match=r"lacks the column.*uri, start_s, end_s"):
        index(str(tmp_path / "cuts.csv"), Location.of(tmp_path / "run"), tiny())


def test_the_zoo_lands_in_exactly_one_table(tmp_path: Path) -> None:
    zoo = shared_media("zoo")
    files = {str(p) for p in zoo.rglob("*") if p.is_file() and not p.name.startswith(".")}
    run = Location.of(tmp_path)
    report = index(str(zoo), run, tiny())
    assert report.listed == len(files)
    assert adds_up(report)
    kept = set(table(run)["uri"].to_pylist())
    rejected = (run / REJECTS).read_table()["uri"].to_pylist()
    assert kept | set(rejected) == files
    assert not kept & set(rejected)
    assert len(rejected) == len(set(rejected))
