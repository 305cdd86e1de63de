"""One keyframe in minutes: it costs a time limit once, not one for every clip in every pass."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import pytest

from pipeline.clips.decoding import pace
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, write

PATIENT = ClipsConfig(video=VIDEO, timeout_s=120.0)
FAR = [ClipRequest(100.0 + 2 * n, 128) for n in range(4)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Two minutes after their one keyframe; the last frames take several times the limit."""
    folder: Path = tmp_path_factory.mktemp("pace")
    generated = GeneratedVideo(video="mpeg4", audio=None, gop=600, bframes=0, size=(1280, 1280))
    short = write(folder / "short.mp4", generated)
    with av.open(str(short)) as media, av.open(str(folder / "film.mp4"), "w") as out:
        stream = out.add_stream_from_template(media.streams.video[0])
        first, *others = (bytes(packet) for packet in media.demux() if packet.size)
        for count in range(3000):
            packet = av.Packet(others[count % len(others)] if count else first)
            packet.is_keyframe = count == 0
            packet.pts = packet.dts = count
            packet.time_base, packet.stream = Fraction(1, 25), stream
            out.mux(packet)
    return Location.of(folder / "film.mp4")


def timed(film: Location, asked: list[ClipRequest], config: ClipsConfig):
    begin = time.monotonic()
    return decode_clips(film, asked, config), time.monotonic() - begin


@pytest.fixture(scope="module")
def impatient(film: Location) -> ClipsConfig:
    """A time limit of a fifth of what one far clip takes on this machine."""
    ((clip,), took_s) = timed(film, FAR[:1], PATIENT)
    assert isinstance(clip, DecodedClip), clip
    return ClipsConfig(video=VIDEO, timeout_s=took_s / 5)


def test_far_clips_cost_one_limit(film, impatient):
    pace.forget()
    limit_s = impatient.timeout_s
    for _ in range(2):
        results, took_s = timed(film, FAR, impatient)
        assert all(isinstance(result, Reject) for result in results), results
        assert {result.reason for result in results} == {Reason.TIMEOUT}
        assert took_s < len(FAR) * limit_s
    assert "frames from the keyframe" in results[-1].detail


def test_near_clips_are_kept(film, impatient):
    """What is known of a file costs only the clips that would take too long themselves."""
    pace.forget()
    near = ClipRequest(0.5, 128)
    (alone,) = decode_clips(film, [near], PATIENT)
    far, kept = decode_clips(film, [FAR[0], near], impatient)
    assert isinstance(far, Reject), far
    assert far.reason is Reason.TIMEOUT
    assert isinstance(alone, DecodedClip)
    assert isinstance(kept, DecodedClip), kept
    assert (kept.video == alone.video).all()
    (patient,) = decode_clips(film, FAR[:1], PATIENT)
    assert isinstance(patient, DecodedClip), "with more time it is decoded"
