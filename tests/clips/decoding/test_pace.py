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

LIMIT_S = 0.6
SLOW = ClipsConfig(video=VIDEO, timeout_s=LIMIT_S)
PATIENT = ClipsConfig(video=VIDEO, timeout_s=60.0)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Two minutes after their one keyframe; the last frames take several times the limit."""
    folder: Path = tmp_path_factory.mktemp("pace")
    generated = GeneratedVideo(video="mpeg4", audio=None, gop=600, bframes=0, size=(640, 640))
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


def test_far_clips_cost_one_limit(film):
    asked = [ClipRequest(100.0 + 2 * n, 128) for n in range(4)]
    took_s = []
    for config in (PATIENT, SLOW, SLOW):
        pace._slow.clear() if config is PATIENT else None
        begin = time.monotonic()
        results = decode_clips(film, asked, config)
        took_s.append(time.monotonic() - begin)
        if config is PATIENT:
            assert all(isinstance(result, DecodedClip) for result in results), results
        else:
            assert {result.reason for result in results} == {Reason.TIMEOUT}
            assert "frames from the keyframe" in results[-1].detail
    assert took_s[0] > 4 * 2 * LIMIT_S, "the film is not slow enough for this test"
    for pass_s in took_s[1:]:
        assert pass_s < took_s[0] / 2


def test_near_clips_are_kept(film):
    """What is known of a file costs only the clips that would take too long themselves."""
    far, near = ClipRequest(110.0, 128), ClipRequest(0.5, 128)
    pace._slow.clear()
    (alone,) = decode_clips(film, [near], PATIENT)
    clip, kept = decode_clips(film, [far, near], SLOW)
    assert isinstance(alone, DecodedClip)
    assert isinstance(kept, DecodedClip), kept
    assert (kept.video == alone.video).all()
    assert isinstance(clip, Reject), clip
    assert clip.reason is Reason.TIMEOUT
    (patient,) = decode_clips(film, [far], PATIENT)
    assert isinstance(patient, DecodedClip), "with more time it is decoded"
