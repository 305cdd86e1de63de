"""Remote files are read by ranges, and what is wrong with a bucket is a reject."""

from __future__ import annotations

import time

import boto3
import numpy as np
import pytest

from pipeline.clips.decoding.decode import ClipRequest, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated
from pipeline.clips.decoding.media import opened
from pipeline.clips.decoding.packets import read_packets
from pipeline.clips.decoding.ranges import RangeReader
from pipeline.clips.indexing import index
from pipeline.clips.rejects import Reason
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import ClipTable
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.flaky_s3 import flaky
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, write
from tests.conftest import s3_uri, tiny

CONFIG = ClipsConfig(video=VIDEO)


@pytest.fixture
def put(s3):
    """Puts an object into the bucket; its location."""
    client = boto3.client("s3", endpoint_url=s3)

    def put(name: str, data: bytes) -> Location:
        client.put_object(Bucket="media", Key=name, Body=data)
        return Location.of(s3_uri(f"media/{name}", s3))

    return put


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_the_same_as_from_a_disk(tmp_path, put, container):
    path = write(tmp_path / f"video.{container}", GeneratedVideo())
    remote = put(f"folder with space/video.{container}", path.read_bytes())
    assert probe(remote) == probe(Location.of(path))
    asked = [ClipRequest(c, 128) for c in (3.0, 0.4)]
    for ours, theirs in zip(
        decode_clips(remote, asked, CONFIG), decode_clips(Location.of(path), asked, CONFIG)
    ):
        assert np.array_equal(ours.video, theirs.video)
        assert np.array_equal(ours.audio, theirs.audio)
    (clip,) = decode_clips_isolated(remote, asked[:1], CONFIG)
    assert clip.video is not None


def test_reads_ranges_not_the_file(tmp_path, put):
    """One clip of a large file takes a few blocks of it."""
    generated = GeneratedVideo(
        video="mjpeg", audio="pcm_s16le", seconds=29.0, options={"qscale": "1"}
    )
    generated.size = (512, 512)
    generated.container = {"movflags": "faststart"}
    data = write(tmp_path / "video.mov", generated).read_bytes()
    remote = put("video.mov", data)
    assert len(data) > 6 * RangeReader.SIZE
    with opened(remote, 20.0) as media:
        read_packets(media, (20.0, 20.3), (19.0, 21.0), time.monotonic() + 20)
        assert media._handle.requests <= 4


def test_faults_of_the_bucket(s3, put):
    asked = [ClipRequest(1.0, 128)]
    missing = Location.of(s3_uri("media/none.mp4", s3))
    assert probe(missing).reason is Reason.MISSING
    assert decode_clips(missing, asked, CONFIG)[0].reason is Reason.MISSING
    assert probe(put("empty.mp4", b"")).reason is Reason.EMPTY_FILE
    assert probe(put("text.mp4", b"not a video " * 1000)).reason is Reason.NOT_MEDIA
    assert probe(Location.of(s3_uri("no-bucket/none.mp4", s3))).reason in (
        Reason.MISSING,
        Reason.UNREADABLE,
    )
    assert not isinstance(probe(missing), MediaInfo)


@pytest.mark.usefixtures("local_ray")
def test_a_bucket_that_fails_and_dawdles_loses_nothing(s3, world, tmp_path):
    """Fifteen requests in a hundred end in a 500, as many pause; every clip is decoded."""
    files = sorted((world.parent / "media").glob("*.mp4"))[:24]
    for file in files:
        Location.of(s3_uri(f"media/videos/{file.name}", s3)).write_bytes(file.read_bytes())
    config, run = tiny(), Location.of(tmp_path / "run")
    with flaky(s3, fail=0.15, slow=0.15) as (endpoint, did):
        report = index(s3_uri("media/videos", endpoint), run, config)
        assert (report.listed, report.indexed, report.rejected) == (24, 24, 0)
        clips = ClipTable.open(run / "clips").publish()
        batch = Slots(clips, Order(24, 24), config.clips, ("video", "audio")).decoded(0)
        assert batch["rejects"] == "[]"
        assert batch["has_video"].all()
        assert batch["has_audio"].all()
    assert did["failed"] >= 3
    assert did["slowed"] >= 5
    assert did["range"] >= 24
