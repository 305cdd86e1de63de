"""Odd and broken files from the wild: each ends, and what a linear player plays is not rejected."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo, View
from pipeline.clips.decoding.frames import TOLERANCE_S
from pipeline.clips.decoding.media import opened
from pipeline.clips.decoding.scaling import to_rgb
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO

MEDIA = Path(__file__).parents[4] / "shared" / "media"
CONFIG = ClipsConfig(video=VIDEO)

pytestmark = pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")


def catalog() -> list[dict[str, str]]:
    with (MEDIA / "zoo" / "catalog.csv").open() as stream:
        return list(csv.DictReader(stream))


def plays(path: Path) -> set[str]:
    """Kinds of track of which a plain linear decode gives anything."""
    kinds: set[str] = set()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            wanted = {s.type for s in container.streams if s.type in ("video", "audio")}
            for packet in container.demux():
                try:
                    if packet.decode():
                        kinds.add(packet.stream.type)
                except (av.error.FFmpegError, ValueError, AttributeError):
                    continue
                if kinds >= wanted:
                    break
    except (av.error.FFmpegError, OSError):
        pass
    return kinds & {"video", "audio"}


def test_every_file_ends_with_a_reason_or_a_clip():
    wrong = []
    for row in catalog():
        path = MEDIA / "zoo" / row["path"]
        info = probe(Location.of(path))
        kinds = plays(path)
        if isinstance(info, Reject):
            if kinds:
                wrong.append((row["path"], info, kinds))
            continue
        middle = (info.start_s + info.end_s) / 2
        asked = [ClipRequest(middle, 128), ClipRequest(info.start_s, 140, 0.2, 0.9)]
        for result in decode_clips(Location.of(path), asked, CONFIG):
            if isinstance(result, Reject):
                wrong.append((row["path"], result, kinds))
            else:
                assert (result.video is not None) == info.has_video, row["path"]
                assert (result.audio is not None) == info.has_audio, row["path"]
    assert not wrong


def test_reasons():
    expected = {
        "moviepy/doc_medias/result.webm": Reason.EMPTY_FILE,
        "small/typescript.ts": Reason.EMPTY_FILE,
        "qtmultimedia/auto/unit/qwavedecoder/data/onebyte.wav": Reason.NOT_MEDIA,
        "qtmultimedia/auto/unit/qwavedecoder/data/nosampledata.wav": Reason.NO_STREAMS,
        "qtmultimedia/auto/integration/qaudiodecoderbackend/testdata/test-unsupported.avi": (
            Reason.UNSUPPORTED
        ),
    }
    for name, reason in expected.items():
        result = probe(Location.of(MEDIA / "zoo" / name))
        assert isinstance(result, Reject), name
        assert result.reason is reason, name


SAMPLES = [
    "zoo/torchcodec/test/resources/*.mp4",
    "zoo/torchvision/*.mp4",
    "zoo/video_features/*.mp4",
    "zoo/decord/tests/test_data/*.mov",
    "zoo/imageio/images/*.mp4",
    "words/original/*1*.mpg",
    "sky/test/*/*1.*",
]


@pytest.mark.parametrize("pattern", SAMPLES)
def test_pictures_are_those_of_a_linear_decode(pattern):
    """Seeking, leaving frames out and sharing passes change nothing, to the last bit."""
    compared = 0
    for path in sorted(MEDIA.glob(pattern))[:12]:
        source = Location.of(path)
        info = probe(source)
        if not isinstance(info, MediaInfo) or not info.has_video or info.end_s > 20:
            continue
        span = info.end_s - info.start_s
        centres = [info.start_s + f * span for f in (0.83, 0.31)]
        asked = [ClipRequest(c, 128, audio=False) for c in centres]
        frames = _linear(source)
        for centre, clip in zip(centres, decode_clips(source, asked, CONFIG)):
            assert isinstance(clip, DecodedClip), path
            for i in range(8):
                at = centre + (i - 3.5) / 30
                before = [f for t, f in frames if t <= at + TOLERANCE_S]
                want = before[-1] if before else frames[0][1]
                assert np.array_equal(clip.video[i], want), (path, at)
        compared += 1
    assert compared


def _linear(source: Location) -> list[tuple[float, np.ndarray]]:
    view = View(112, 128, 0.5, 0.5, None)
    frames = []
    with opened(source, 20.0, lean=False) as media:
        for packet in media.container.demux(media.video):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                at = media.seconds(frame.pts, media.video)
                frames.append((at, to_rgb(frame, view).copy()))
    return sorted(frames, key=lambda pair: pair[0])
