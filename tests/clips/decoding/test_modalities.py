"""A fault of one modality is told, and costs the other nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, with_noise, write
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VIDEO)
CENTRES = (0.6, 2.1, 3.4)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize(("modality", "other"), [("video", "audio"), ("audio", "video")])
def test_a_track_of_noise(tmp_path, container, modality, other):
    path = write(tmp_path / f"video.{container}", GeneratedVideo())
    bad = Location.of(with_noise(path, modality, -1.0))
    info = probe(bad)
    assert isinstance(info, MediaInfo), info
    lost = dict(info.lost)
    assert (info.has_video, info.has_audio) == (other == "video", other == "audio")
    assert lost[modality].reason is Reason.CORRUPT
    for clip in decode_clips(bad, [ClipRequest(c, 128) for c in CENTRES], CONFIG):
        assert isinstance(clip, DecodedClip), clip
        assert getattr(clip, other) is not None


@pytest.mark.parametrize("company", [False, True])
def test_pictures_that_end_in_noise(tmp_path, company):
    """The clips after that have their sound, and say what they lost."""
    path = write(tmp_path / "video.mkv", GeneratedVideo(gop=10, audio="libopus"))
    whole = decode_clips(Location.of(path), [ClipRequest(c, 128) for c in CENTRES], CONFIG)
    bad = Location.of(with_noise(path, "video", 1.5))
    requests = [ClipRequest(c, 128) for c in CENTRES]
    asked = [requests] if company else [[request] for request in requests]
    clips = [clip for some in asked for clip in decode_clips(bad, some, CONFIG)]
    for clip, right in zip(clips, whole):
        assert isinstance(clip, DecodedClip)
        assert np.array_equal(clip.audio, right.audio)
        assert clip.video is not None or clip.lost["video"].reason is Reason.CORRUPT
    assert np.array_equal(clips[0].video, whole[0].video)


BROKEN = """
import sys
if sys.argv[0] == "-c":
    from pipeline.clips.decoding import pyav

    def broken(*arguments):
        raise {error}

    pyav.{function} = broken
"""


@pytest.mark.parametrize("error", ["ValueError('x')", "MemoryError()", "OSError('x')"])
@pytest.mark.parametrize(
    ("function", "modality", "other"),
    [("displayed_frames", "video", "audio"), ("decode_stretches", "audio", "video")],
)
def test_whatever_is_raised(tmp_path, monkeypatch, error, function, modality, other):
    """Of any exception in one modality's decoding, and in the real child process."""
    place = tmp_path / "trouble"
    place.mkdir()
    (place / "sitecustomize.py").write_text(BROKEN.format(error=error, function=function))
    monkeypatch.syspath_prepend(str(place))
    isolation.close()
    try:
        path = write(tmp_path / "video.mp4", GeneratedVideo())
        requests = [ClipRequest(c, 128) for c in CENTRES]
        for clip in decode_clips_isolated(Location.of(path), requests, CONFIG):
            assert isinstance(clip, DecodedClip)
            assert getattr(clip, other) is not None
            assert isinstance(clip.lost[modality], Reject)
    finally:
        isolation.close()


def test_the_same_bytes_alone_in_any_company_order_and_process():
    """Over all that is odd: what a clip holds follows from the file and the request alone."""
    rng = random.Random(11)
    compared = 0
    for path in sorted(p for p in shared_media("field").iterdir() if p.is_file()):
        source = Location.of(path)
        info = isolation.probe_isolated(source, 20.0)
        if not isinstance(info, MediaInfo):
            continue
        # Clips next to each other, some of which overlap, and far ones.
        centres = [rng.uniform(info.start_s, info.end_s) for _ in range(4)]
        centres += [centres[0] + shift for shift in (0.1, 0.7, 2.9)]
        requests = [ClipRequest(c, 120, rng.random(), rng.random()) for c in centres]
        together = decode_clips_isolated(source, requests, CONFIG)
        isolation.close()
        order = rng.sample(range(len(requests)), len(requests))
        shuffled = decode_clips_isolated(source, [requests[i] for i in order], CONFIG)
        for place, number_of in enumerate(order):
            (alone,) = decode_clips_isolated(source, [requests[number_of]], CONFIG)
            for other in (shuffled[place], alone):
                assert same(together[number_of], other), (path.name, centres[number_of])
                compared += 1
    assert compared > 200


def same(a: DecodedClip | Reject, b: DecodedClip | Reject) -> bool:
    if isinstance(a, Reject) or isinstance(b, Reject):
        return isinstance(a, Reject) and isinstance(b, Reject) and a.reason is b.reason
    pairs = ((a.video, b.video), (a.audio, b.audio))
    arrays = all((x is None) == (y is None) and np.array_equal(x, y) for x, y in pairs)
    return arrays and {m: r.reason for m, r in a.lost.items()} == {
        m: r.reason for m, r in b.lost.items()
    }
