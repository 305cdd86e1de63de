"""Display matrices: clips show what ffmpeg shows, from the media and from the clip store."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo, Region, View
from pipeline.clips.decoding.scaling import to_rgb
from pipeline.clips.decoding.shrink import shrink
from pipeline.clips.rejects import Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, set_matrix, write
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VIDEO)

# (a, b, c, d) of the matrix → clockwise degrees, and the filters that ffmpeg inserts for it
# (configure_input_video_filter in fftools/ffmpeg_filter.c).
EIGHT = {
    (1, 0, 0, 1): (0, []),
    (0, 1, -1, 0): (90, [("transpose", "clock")]),
    (-1, 0, 0, -1): (180, [("hflip", ""), ("vflip", "")]),
    (0, -1, 1, 0): (270, [("transpose", "cclock")]),
    (1, 0, 0, -1): (0, [("vflip", "")]),
    (0, 1, 1, 0): (90, [("transpose", "cclock_flip")]),
    (-1, 0, 0, 1): (180, [("hflip", "")]),
    (0, -1, -1, 0): (270, [("transpose", "clock_flip")]),
}


def rotated(degrees: float) -> tuple[float, ...]:
    angle = math.radians(degrees)
    return math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)


ODD = {
    (2, 0, 0, 2): (0, []),  # scaling: the frame keeps its size
    (0, 0.5, -0.5, 0): (90, [("transpose", "clock")]),
    (1, 0, 0.3, 1): (0, []),  # shear
    (0, 0, 0, 0): (0, []),
    rotated(30): (30, [("rotate", "30*PI/180")]),
    rotated(-5): (355, [("rotate", "355*PI/180")]),
    rotated(90.3): (90, [("transpose", "clock")]),
    rotated(1): (1, []),
}
ALL = {**EIGHT, **ODD}


def as_ffmpeg(path: Path, filters: list[tuple[str, str]]) -> list[np.ndarray]:
    """Frames of a film as ffmpeg shows them, RGB."""
    shown = []
    with av.open(str(path)) as media:
        stream = media.streams.video[0]
        graph = Graph()
        chain = [graph.add_buffer(template=stream)]
        chain += [graph.add(*step) for step in [*filters, ("format", "rgb24"), ("buffersink", "")]]
        graph.link_nodes(*chain).configure()
        for frame in media.decode(stream):
            graph.vpush(frame)
            shown.append(graph.vpull().to_ndarray())
    return shown


def middle(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


@pytest.mark.parametrize("matrix", ALL)
def test_as_ffmpeg_shows_it(tmp_path, matrix):
    """To the last bit, where nothing is scaled and chroma is whole."""
    clockwise, filters = ALL[matrix]
    film = GeneratedVideo(audio=None, seconds=1.0, size=(160, 112), pix_fmt="yuv444p")
    path = set_matrix(write(tmp_path / "film.mp4", film), matrix)
    want = [middle(pixels, 112) for pixels in as_ffmpeg(path, filters)]
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo)
    upright = (112, 160) if ("transpose" in dict(filters)) else (160, 112)
    assert (info.width, info.height, info.rotation) == (*upright, clockwise)
    with av.open(str(path)) as media:
        for frame, expected in zip(media.decode(video=0), want, strict=True):
            assert np.array_equal(to_rgb(frame, View(112, 112, 0.5, 0.5, None)), expected)


@pytest.mark.parametrize("matrix", EIGHT)
@pytest.mark.parametrize("region", [None, (10, 5, 90, 100)])
def test_clips_and_stored_clips(tmp_path, matrix, region: Region | None):
    """Regions and crops are of the upright picture, and the store holds upright pictures."""
    _, filters = EIGHT[matrix]
    film = write(tmp_path / "film.mp4", GeneratedVideo(audio=None, size=(160, 128)))
    upright = write(tmp_path / "upright.mkv", GeneratedVideo(audio=None, size=(160, 128)))
    _rewrite(film, upright, filters)
    source = Location.of(set_matrix(film, matrix))
    config = ClipsConfig(video=VIDEO.model_copy(update={"region": region}))
    asked = ClipRequest(1.5, 128, 0.1, 0.8)
    (want,) = decode_clips(Location.of(upright), [asked], config)
    (found,) = decode_clips(source, [asked], config)
    small = shrink(source, 0.5, 2.5, config, "jpeg")
    assert not isinstance(small, Reject), small
    (stored,) = decode_clips(small, [replace(asked, centre_s=1.0)], CONFIG)
    for clip in (want, found, stored):
        assert isinstance(clip, DecodedClip), clip
        assert np.abs(clip.video.astype(int) - want.video).mean() < 4


def _rewrite(film: Path, upright: Path, filters: list[tuple[str, str]]) -> None:
    """The film's frames, turned by filters, as a lossless film without a matrix."""
    frames = as_ffmpeg(film, filters)
    with av.open(str(upright), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for count, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            frame.pts = count
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_mirrored_films_of_the_field():
    """All but the last bits, since chroma planes are enlarged before or after the turn."""
    filters = {"hflip": EIGHT[-1, 0, 0, 1][1], "antitranspose": EIGHT[0, -1, -1, 0][1]}
    for name, steps in filters.items():
        path = shared_media("field") / f"03_mirrored_{name}.mp4"
        with av.open(str(path)) as media:
            for frame, expected in zip(media.decode(video=0), as_ffmpeg(path, steps), strict=True):
                shown = to_rgb(frame, View(112, 128, 0.5, 0.5, None)).astype(int)
                assert np.abs(shown - middle(expected, 112)).mean() < 1


def test_side_data_that_pyav_cannot_list(tmp_path):
    """EXIF in Motion JPEG: libavcodec turns it into a matrix, and PyAV fails at the EXIF."""
    film = write(tmp_path / "film.mkv", GeneratedVideo(video="mjpeg", audio=None, seconds=1.0))
    orientation = b"\x12\1\3\0\1\0\0\0\6\0\0\0"  # tag 0x112, one short, 6: 90 degrees clockwise
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + orientation + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "exif.mkv"
    with av.open(str(film)) as media, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(media.streams.video[0])
        for packet in media.demux():
            if packet.size:
                data = bytes(packet)
                tagged = av.Packet(data[:2] + segment + data[2:])
                tagged.pts, tagged.dts, tagged.stream = packet.pts, packet.dts, stream
                tagged.time_base, tagged.is_keyframe = packet.time_base, True
                out.mux(tagged)
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert info.rotation == 90
    want = as_ffmpeg(film, [("transpose", "clock")])
    with av.open(str(path)) as media:
        shown = to_rgb(next(media.decode(video=0)), View(112, 128, 0.5, 0.5, None)).astype(int)
    assert np.abs(shown - middle(want[0], 112)).mean() < 1
