from __future__ import annotations

import csv
import gzip
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clips.indexing import REJECTS, IndexReport, index
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import SCHEMA, ClipTable
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.conftest import s3_uri, shared_media, tiny
from tests.secrets_found import found_secrets

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


def test_bucket_to_bucket(world: Path, s3: str, capfd: pytest.CaptureFixture[str]) -> None:
    files = sorted((world.parent / "media").glob("*.mp4"))[:6]
    bucket = Location.of(s3_uri("media/videos", s3))
    for place in files:
        (bucket / "deep" / place.name).write_bytes(place.read_bytes())
    (bucket / "notes.txt").write_text("these are not videos, only notes about them")
    run = Location.of(s3_uri("media/runs/a", s3))
    report = index(bucket.full_uri, run, tiny())
    assert (report.listed, report.indexed, report.rejected) == (7, 6, 1)
    assert len(ClipTable.open(run / "clips")) == 6
    assert not found_secrets(run, "".join(capfd.readouterr()))


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


@pytest.mark.parametrize("folder", ["zoo", "field"])
def test_odd_media_land_in_exactly_one_table(folder: str, tmp_path: Path) -> None:
    media = shared_media(folder)
    files = {str(p) for p in media.rglob("*") if p.is_file() and not p.name.startswith(".")}
    run = Location.of(tmp_path)
    report = index(str(media), run, tiny())
    assert report.listed == len(files)
    assert adds_up(report)
    kept = set(table(run)["uri"].to_pylist())
    rows = (run / REJECTS).read_table().to_pylist()
    rejected = [row["uri"] for row in rows if row["modality"] is None]
    assert {row["uri"] for row in rows if row["modality"]} <= kept
    assert kept | set(rejected) == files
    assert not kept & set(rejected)
    assert len(rejected) == len(set(rejected))


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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """4 s of video and sound."""
    return generated(tmp_path / "media" / "f.mp4", GeneratedVideo())


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


def test_the_report_says_what_lies_outside_the_overlap(tmp_path: Path) -> None:
    media = tmp_path / "media"
    generated(media / "late_sound.mp4", GeneratedVideo(audio_from=1.5))
    generated(media / "late_pictures.mp4", GeneratedVideo(video_from=1.0))
    generated(media / "silent.mp4", GeneratedVideo(audio=None))
    generated(media / "both.mp4", GeneratedVideo())
    report = index(str(media), Location.of(tmp_path / "run"), tiny())
    assert report.unused_video_s == pytest.approx(1.5, abs=0.25)
    assert report.unused_audio_s == pytest.approx(1.0, abs=0.25)


def test_an_archive_is_refused_as_one(file: Path, tmp_path: Path) -> None:
    media = tmp_path / "more"
    media.mkdir()
    sound = write(tmp_path / "sound.mp3", GeneratedVideo(video=None, audio="libmp3lame"))
    with tarfile.open(media / "sound.tar", "w") as tar:
        tar.add(sound, "sound.mp3")
    with zipfile.ZipFile(media / "named.mp4", "w") as pack:
        pack.write(file, "f.mp4")
    (media / "f.mp4.gz").write_bytes(gzip.compress(file.read_bytes()))
    for source in (media, media / "sound.tar"):
        run = Location.of(tmp_path / f"run-{source.name}")
        report = index(str(source), run, tiny())
        assert (report.clips, set(report.reasons)) == (0, {"not_media"})
        details = (run / REJECTS).read_table()["detail"].to_pylist()
        assert all("archive" in detail and "unpack" in detail for detail in details)


@pytest.mark.parametrize("key", ["a#b.mp4", "what?.mp4", "x//y.mp4", "%41 [1] 'q' + 😀.mp4"])
def test_odd_keys_of_a_bucket_are_indexed_and_decoded(file: Path, s3: str, key: str) -> None:
    """Beside each lies what a reader of URIs would take it for."""
    client = boto3.client("s3", endpoint_url=s3)
    client.put_object(Bucket="media", Key=f"in/{key}", Body=file.read_bytes())
    for decoy in ("a", "what", "x/y.mp4", "A [1] 'q' + 😀.mp4"):
        client.put_object(Bucket="media", Key=f"in/{decoy}", Body=b"another object, no media")
    run = Location.of(s3_uri("media/run", s3))
    listed = s3_uri("media/in", s3)
    report = index(listed, run, tiny())
    assert (report.listed, report.indexed, report.rejected) == (5, 1, 4)
    (uri,) = table(run)["uri"].to_pylist()
    assert Location.of(uri).uri == f"s3://media/in/{key}"
    assert decodes(run)
    cuts = Location.of(s3_uri("media/cuts.csv", s3))
    cuts.write_bytes(f'uri,start_s,end_s\n"in/{key}",1,2\n'.encode())
    report = index(cuts.full_uri, run, tiny())
    assert (report.indexed, report.rejected) == (1, 0)


def test_names_that_are_not_utf_8_are_indexed(file: Path, tmp_path: Path) -> None:
    name = os.fsencode(file.parent) + b"/caf\xe9.mp4"
    os.rename(file, name)
    with open(os.fsencode(file.parent) + b"/\xff.txt", "w") as text:
        text.write("to be or not to be, that is the question")
    run = Location.of(tmp_path / "run")
    report = index(str(file.parent), run, tiny())
    assert (report.indexed, report.reasons) == (1, {"not_media": 1})
    assert table(run)["uri"].to_pylist() == [f"file://{file.parent}/caf%E9.mp4"]
    assert rows_of(run) == [("%FF.txt", "probe", "not_media")]
    assert decodes(run)


def test_a_folder_that_cannot_be_listed_is_counted(file: Path, tmp_path: Path) -> None:
    (file.parent / "loop").symlink_to("loop")
    run = Location.of(tmp_path / "run")
    for known in (0, 2):
        report = index(str(file.parent), run, tiny())
        assert adds_up(report)
        assert (report.listed, report.already_known) == (2, known)
        assert rows_of(run) == [("loop", "list", "unreadable")]


def test_credentials_reach_nothing_that_is_written(file: Path, tmp_path: Path) -> None:
    rows = [
        *("s3://KEYID:HIDDEN@bucket/x.mp4,0,1", "https://h/x?X-Amz-Signature=HIDDEN,0,1"),
        *("s3://bucket/x.mp4?access_key=KEYID&secret_key=HIDDEN,,", f"{file},0,1"),
    ]
    run = Location.of(tmp_path / "run")
    report = index(write_cuts(tmp_path / "a.csv", *rows), run, tiny())
    assert (report.indexed, report.reasons) == (1, {"unreadable": 3})
    with pytest.raises(UserError) as error:
        index("s3://KEYID:HIDDEN@bucket/videos", run, tiny())
    assert "HIDDEN" not in str(error.value)
    for name in ("run", "store.place", "tracking.mlflow"):
        with pytest.raises(UserError, match="credentials") as error:
            tiny(f"{name}=https://KEYID:HIDDEN@host/x")
        assert "HIDDEN" not in str(error.value)
    for path in Path(run.uri).rglob("*"):
        if path.suffix == ".parquet":
            assert "HIDDEN" not in str(pq.read_table(path).to_pylist())
        elif path.is_file():
            assert b"HIDDEN" not in path.read_bytes()


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
