"""Remote media at disk speed: few requests, made ahead of decoding, and never another file."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import boto3
import numpy as np
import pytest

from pipeline.clips import fetching
from pipeline.clips.chunks import clips_of
from pipeline.clips.decoding.byte_index import WHOLE, ByteIndex, joined, wanted_ranges
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated
from pipeline.clips.decoding.media import opened
from pipeline.clips.decoding.ranges import RangeReader
from pipeline.clips.fetching import fetch_for_decoding, fetch_for_probing
from pipeline.clips.indexing import index
from pipeline.clips.rejects import Reason, Reject, RejectedClip
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import ClipTable
from pipeline.config import AudioConfig, ClipsConfig, IndexConfig
from pipeline.storage import Location
from tests.clips.decoding.flaky_s3 import flaky
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, write
from tests.conftest import s3_uri, tiny

CONFIG = ClipsConfig(video=VIDEO, audio=AudioConfig(window_s=1.0))
UNCUT = {"start_s": None, "end_s": None, "label": None, "split": None}


@pytest.fixture
def bucket(s3):
    """The bucket's client."""
    return boto3.client("s3", endpoint_url=s3)


def large(path: Path, video: str = "libx264", **container: str) -> Path:
    """A file that is too large to be read whole."""
    film = GeneratedVideo(video=video, audio="pcm_s16le", seconds=40.0, layout="stereo")
    if path.suffix == ".mpg":
        film.audio = "pcm_s16be"
    if path.suffix == ".ts":  # it holds no plain samples
        film.audio, film.size, film.seconds = "mp2", (512, 512), 60.0
        film.options = {"qmin": "1", "qmax": "1"}
    film.container = container
    write(path, film)
    assert path.stat().st_size > 2 * WHOLE
    return path


def rows_of(place: Location, info: MediaInfo, window_s: float = 10.0) -> list[dict]:
    """As they stand in the clips table."""
    made = clips_of(str(place), info, UNCUT, IndexConfig(window_s=window_s))
    assert isinstance(made, list)
    return [{"head_bytes": None, "tail_bytes": None, "parts_kib": None, **row} for row in made]


FILMS = {
    "index in front": ("mov", "libx264", {"movflags": "faststart"}, 2),
    "index behind": ("mov", "libx264", {}, 3),
    "keyframes alone": ("mov", "mjpeg", {"movflags": "faststart"}, 2),
    "matroska": ("mkv", "libx264", {}, 3),
    "matroska, index in front": ("mkv", "libx264", {"reserve_index_space": "8192"}, 2),
    "avi": ("avi", "mjpeg", {}, 3),
}


@pytest.mark.parametrize("name", FILMS)
def test_a_clip_of_a_large_file_takes_few_requests_at_once(name, tmp_path, s3, bucket):
    suffix, video, container, most = FILMS[name]
    film = large(tmp_path / f"film.{suffix}", video, **container)
    bucket.upload_file(str(film), "media", "film")
    size = film.stat().st_size
    with flaky(s3, 0, 0) as (endpoint, did):
        remote = Location.of(s3_uri("media/film", endpoint))
        (found,) = fetch_for_probing([MediaFile(remote)], 20.0)
        info = probe(found)
        assert isinstance(info, MediaInfo)
        assert info == probe(Location.of(film))
        for row in rows_of(remote, info)[1:]:
            middle = (row["start_s"] + row["end_s"]) / 2
            file = MediaFile(remote, row["size"], row["etag"], row["pieces"])
            ranges = wanted_ranges(row, middle - 0.6, middle + 0.6)
            did.clear()
            (fetched,) = fetch_for_decoding([(file, ranges)], 20.0)
            assert sum(len(data) for _, data in fetched.fetched) < 0.4 * size
            assert did["asked"] <= most
            asked = [ClipRequest(middle, 128)]
            (ours,) = decode_clips(fetched, asked, CONFIG)
            assert did["asked"] <= most, "decoding asks for nothing more"
            assert did["asked"] == did["range"]
            (theirs,) = decode_clips(Location.of(film), asked, CONFIG)
            assert np.array_equal(ours.video, theirs.video)
            assert np.array_equal(ours.audio, theirs.audio)


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_a_file_without_an_index_is_guessed_at(suffix, tmp_path, s3, bucket):
    film = large(tmp_path / f"film.{suffix}", "mpeg2video")
    bucket.upload_file(str(film), "media", "film")
    remote = Location.of(s3_uri("media/film", s3))
    (found,) = fetch_for_probing([MediaFile(remote)], 20.0)
    info = probe(found)
    assert isinstance(info, MediaInfo)
    row = rows_of(remote, info)[2]
    middle = (row["start_s"] + row["end_s"]) / 2
    file = MediaFile(remote, info.size, info.etag, info.pieces)
    (fetched,) = fetch_for_decoding([(file, wanted_ranges(row, middle - 0.6, middle + 0.6))], 20.0)
    with opened(fetched, 20.0) as media:
        media.seek(media.timestamp(middle - 0.6, media.tracks[0]), stream=media.tracks[0])
        for _ in zip(range(50), media.packets(media.tracks, float("inf"))):
            pass
        assert media.reader is not None
        assert media.reader.requests <= 3
    asked = [ClipRequest(middle, 128)]
    (ours,), (theirs,) = (decode_clips(f, asked, CONFIG) for f in (fetched, Location.of(film)))
    assert np.array_equal(ours.video, theirs.video)


def test_ranges_of_a_clip_by_its_row():
    steps = np.arange(4 * 40 + 1)
    known = ByteIndex(5000, 7000, 0.0, steps * 50_000, (steps + 4) * 50_000)
    row = {"size": 9_000_000, "start_s": 10.0, "end_s": 18.0, **known.columns(10.0, 18.0)}
    head, tail, (first, stop) = wanted_ranges(row, 13.5, 14.5)
    assert (head, tail) == ((0, 5000), (8_993_000, 9_000_000))
    assert 12 * 200_000 <= first <= 13 * 200_000
    assert 15 * 200_000 <= stop <= 17 * 200_000
    assert wanted_ranges({**row, "parts_kib": None}, 13.5, 14.5) == ()
    assert wanted_ranges({**row, "size": 1000}, 13.5, 14.5) == ((0, 1000),)
    assert len(wanted_ranges({**row, "size": None}, 13.5, 14.5)) == 1
    assert joined([(5, 5), (0, 10), (20, 30), (9_000_000, 9_000_001)]) == [
        (0, 30),
        (9_000_000, 9_000_001),
    ]


@pytest.mark.usefixtures("local_ray")
def test_small_files_are_one_request_each_and_what_changed_is_rejected(s3, bucket, world, tmp_path):
    files = sorted((world.parent / "media").glob("*.mp4"))[:16]
    for file in files:
        bucket.upload_file(str(file), "media", f"videos/{file.name}")
    config, run = tiny(), Location.of(tmp_path / "run")
    with flaky(s3, 0, 0) as (endpoint, did):
        index(s3_uri("media/videos", endpoint), run, config)
        assert did["range"] == 16
        did.clear()
        table = ClipTable.open(run / "clips")
        assert table.column("size").to_pylist() == [file.stat().st_size for file in files]
        slots = Slots(table.publish(), Order(16, 16), config.clips, ("video", "audio"))
        batch = slots.decoded(0)
        assert batch["has_video"].all()
        assert did["asked"] == 16

        # Another file of the same size, one of another size, and none.
        data = bytearray(files[2].read_bytes())
        data[-1] ^= 1
        bucket.put_object(Bucket="media", Key=f"videos/{files[2].name}", Body=bytes(data))
        bucket.upload_file(str(files[6]), "media", f"videos/{files[5].name}")
        bucket.delete_object(Bucket="media", Key=f"videos/{files[9].name}")
        batch = slots.decoded(0)
        lost = RejectedClip.loads(batch["rejects"])
        assert [(row.clip_index, row.reason) for row in lost] == [
            (2, "changed"),
            (5, "changed"),
            (9, "missing"),
        ]
        assert batch["has_video"].sum() == 13


def test_a_file_of_another_size_on_a_disk_has_changed(tmp_path):
    place = Location.of(write(tmp_path / "film.mp4", GeneratedVideo()))
    size = Path(place.uri).stat().st_size
    asked = [ClipRequest(1.0, 128)]
    (clip,) = decode_clips(MediaFile(place, size), asked, CONFIG)
    assert isinstance(clip, DecodedClip)
    (reject,) = decode_clips(MediaFile(place, size + 1), asked, CONFIG)
    assert isinstance(reject, Reject)
    assert reject.reason is Reason.CHANGED
    info = probe(place)
    assert isinstance(info, MediaInfo)
    assert (info.size, info.etag) == (size, None)


def test_ranges_of_one_file_are_of_one_file(s3, bucket):
    bucket.put_object(Bucket="media", Key="film", Body=bytes(3 << 20))
    reader = RangeReader(Location.of(s3_uri("media/film", s3)))
    assert reader.read(16) == bytes(16)
    bucket.put_object(Bucket="media", Key="film", Body=b"1" * (3 << 20))
    reader.seek(2 << 20)
    with pytest.raises(Reject) as changed:
        reader.read(16)
    assert changed.value.reason is Reason.CHANGED


def test_read_on_from_one_place_reads_ever_more_at_once(s3, bucket):
    data = np.random.default_rng(0).bytes(12 << 20)
    bucket.put_object(Bucket="media", Key="film", Body=data)
    file = MediaFile(
        Location.of(s3_uri("media/film", s3)), len(data), None, 1, ((100, data[100:999]),)
    )
    reader = RangeReader(file)
    assert reader.requests == 0
    reader.seek(150)
    assert (reader.read(50), reader.requests) == (data[150:200], 0)
    reader.seek(0)
    read = []
    while piece := reader.read(1 << 16):
        read.append(piece)
    assert b"".join(read) == data
    assert reader.requests <= 9
    reader.seek(5 << 20)
    assert reader.read(100) == data[5 << 20 :][:100]


def test_only_so_much_is_fetched_ahead(s3, bucket, monkeypatch):
    size = 100_000
    for number in range(12):
        bucket.put_object(Bucket="media", Key=str(number), Body=bytes([number]) * size)
    monkeypatch.setattr(fetching, "BUFFER", 3 * size)
    with flaky(s3, 0, 0) as (endpoint, did):
        files = [MediaFile(Location.of(s3_uri(f"media/{n}", endpoint)), size) for n in range(12)]
        fetched = fetch_for_decoding([(file, [(0, size)]) for file in files], 20.0)
        for number, file in enumerate(fetched):
            assert file.fetched == ((0, bytes([number]) * size),)
            assert file.etag
            assert did["asked"] <= number + 3
    assert did["asked"] == 12


def test_of_one_file_no_more_than_the_buffer_holds(s3, bucket, monkeypatch):
    bucket.put_object(Bucket="media", Key="film", Body=bytes(5 << 20))
    monkeypatch.setattr(fetching, "BUFFER", 3 << 18)
    file = MediaFile(Location.of(s3_uri("media/film", s3)), 5 << 20)
    ranges = [(n << 20, (n << 20) + (1 << 18)) for n in range(5)]
    (fetched,) = fetch_for_decoding([(file, ranges)], 20.0)
    assert [offset for offset, _ in fetched.fetched] == [0, 1 << 20, 2 << 20]


def test_what_cannot_be_fetched_is_left_to_the_decoder(s3, bucket):
    bucket.put_object(Bucket="media", Key="there", Body=b"12345")
    there, gone = (Location.of(s3_uri(f"media/{name}", s3)) for name in ("there", "gone"))
    files = [MediaFile(there, 5), MediaFile(gone, 5), MediaFile(there, 6), MediaFile(there, 5)]
    fetched = [*fetch_for_decoding([(file, [(0, 5)]) for file in files], 20.0)]
    assert [len(file.fetched) for file in fetched] == [1, 0, 0, 1]
    assert [replace(file, fetched=(), etag=None) for file in fetched] == files
    (reject,) = decode_clips(fetched[2], [ClipRequest(1.0, 128)], CONFIG)
    assert isinstance(reject, Reject)
    assert reject.reason is Reason.CHANGED


def test_what_was_fetched_reaches_the_decoding_process(tmp_path, s3, bucket):
    film = write(tmp_path / "film.mp4", GeneratedVideo())
    data = film.read_bytes()
    bucket.put_object(Bucket="media", Key="film", Body=data)
    asked = [ClipRequest(1.0, 128)]
    (theirs,) = decode_clips(Location.of(film), asked, CONFIG)
    with flaky(s3, 0, 0) as (endpoint, did):
        remote = Location.of(s3_uri("media/film", endpoint))
        cuts = (0, 10_000, 10_001, len(data))
        pieces = tuple((a, data[a:b]) for a, b in pairwise(cuts))
        for fetched in (pieces, ((0, data),), pieces[:2]):
            (ours,) = decode_clips_isolated(
                MediaFile(remote, len(data), None, 1, fetched), asked, CONFIG
            )
            assert np.array_equal(ours.video, theirs.video)
            assert np.array_equal(ours.audio, theirs.audio)
        assert did["asked"] == 1
