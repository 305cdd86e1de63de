"""Folders and buckets of any media become clips and rejects."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest

from pipeline.clips.indexing import REJECTS, index
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.clips.index_results import adds_up, decodes, generated, rows_of, table, write_cuts
from tests.conftest import s3_uri, shared_media, tiny
from tests.secrets_found import found_secrets

pytestmark = pytest.mark.usefixtures("local_ray")


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
