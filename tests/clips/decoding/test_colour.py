"""Rare colour matrices: the right colours, from the media and from the store, or a reject."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.clips.decoding.colour import to_rgb8
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo, View
from pipeline.clips.decoding.scaling import to_rgb
from pipeline.clips.decoding.shrink import shrink
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VIDEO)
COLOURS = [(200, 60, 40), (40, 180, 90), (30, 60, 210), (220, 210, 60)]
# Luma weights of red and blue (H.273, table 4): BT.601, BT.709, BT.2020.
WEIGHTS = {2: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}
# Number of a matrix → the one that it is shown with.
SHOWN_AS = {10: 9, 12: 1, 13: 1}


def encoded(rgb: tuple[int, int, int], matrix: int, full: bool) -> list[int]:
    """Y, Cb and Cr of 8 bits, by the equations of H.273 (8.3)."""
    red, green, blue = (value / 255 for value in rgb)
    if matrix == 8:
        luma = green / 2 + (red + blue) / 4
        first, second = green / 2 - (red + blue) / 4, (red - blue) / 2
    else:
        of_red, of_blue = WEIGHTS[SHOWN_AS.get(matrix, matrix)]
        luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
        first = (blue - luma) / 2 / (1 - of_blue)
        second = (red - luma) / 2 / (1 - of_red)
    if full:
        return [round(luma * 255), round(first * 255 + 128), round(second * 255 + 128)]
    return [round(luma * 219 + 16), round(first * 224 + 128), round(second * 224 + 128)]


def film(path: Path, matrix: int, full: bool = False, primaries: int = 1) -> Location:
    """Four patches of colour, in H.264 whose header names the matrix."""
    params = f"colormatrix={matrix}:colorprim={primaries}:fullrange={'on' if full else 'off'}"
    planes = np.zeros((3, 128, 128), np.uint8)
    for place, colour in enumerate(COLOURS):
        y, x = 64 * (place // 2), 64 * (place % 2)
        planes[:, y : y + 64, x : x + 64] = np.array(encoded(colour, matrix, full))[:, None, None]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "2", "x264-params": params})
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_primaries = primaries
        stream.codec_context.color_range = 2 if full else 1
        for count in range(25):
            frame = av.VideoFrame(128, 128, "yuv420p")
            for number, plane in enumerate(frame.planes):
                values = planes[number, :: 2 if number else 1, :: 2 if number else 1]
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : plane.width] = values
                plane.update(rows)
            frame.pts = count
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(str(path)) as media:
        assert next(media.decode(video=0)).colorspace == matrix
    return Location.of(path)


def assert_colours(video: np.ndarray, within: int) -> None:
    size = video.shape[1]
    for place, colour in enumerate(COLOURS):
        y, x = (size // 4 + size // 2 * edge for edge in divmod(place, 2))
        shown = video[3, y - 4 : y + 4, x - 4 : x + 4].astype(int).mean((0, 1))
        assert shown == pytest.approx(colour, abs=within), place


@pytest.mark.parametrize("matrix", [1, 2, 8, 9, 10, 12, 13])
@pytest.mark.parametrize("full", [False, True])
def test_colours(tmp_path, matrix, full):
    source = film(tmp_path / "film.mp4", matrix, full)
    assert isinstance(probe(source), MediaInfo)
    (clip,) = decode_clips(source, [ClipRequest(0.5, 112)], CONFIG)
    assert isinstance(clip, DecodedClip), clip
    assert_colours(clip.video, 4)


@pytest.mark.parametrize("matrix", [1, 2, 8, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_colours_of_stored_clips(tmp_path, matrix, full, codec):
    """They name no matrix, so they are stored in the one that is taken for granted."""
    source = film(tmp_path / "film.mp4", matrix, full)
    small = shrink(source, 0.1, 0.9, CONFIG, codec)
    assert not isinstance(small, Reject), small
    (clip,) = decode_clips(small, [ClipRequest(0.4, 112)], CONFIG)
    assert isinstance(clip, DecodedClip), clip
    assert_colours(clip.video, 6)


@pytest.mark.parametrize("matrix", [11, 14])
def test_what_nothing_converts_is_rejected_when_indexing(tmp_path, matrix):
    path = tmp_path / "film.mp4"
    with pytest.raises(KeyError):
        encoded(COLOURS[0], matrix, False)
    WEIGHTS[matrix] = WEIGHTS[1]
    try:
        source = film(path, matrix)
    finally:
        del WEIGHTS[matrix]
    for result in (probe(source), *decode_clips(source, [ClipRequest(0.5, 112)], CONFIG)):
        assert isinstance(result, Reject), result
        assert result.reason is Reason.UNSUPPORTED
        assert "colour matrix" in result.detail


def test_ictcp():
    """Greys, and values worked out by hand from BT.2100-2's forward equations."""
    rng = np.random.default_rng(0)
    linear = rng.uniform(0.0, 0.2, (500, 3))
    linear[:5] = np.linspace(0, 0.2, 5)[:, None]
    lms = linear @ np.array([[1688, 2146, 262], [683, 2951, 462], [99, 309, 3688]]).T / 4096
    mixed = np.array([[2048, 2048, 0], [6610, -13613, 7003], [17933, -17390, -543]]) / 4096
    ictcp = pq(lms) @ mixed.T
    planes = np.clip((ictcp * (219, 224, 224) + (16, 128, 128)) * 256, 0, 65535).round()
    shown = to_rgb8(planes.astype(np.uint16)[None], 14, 1)[0]
    assert np.abs(shown - pq(linear) * 255).max() < 1
    assert (shown[:5].max(1) - shown[:5].min(1)).max() <= 1


def pq(linear: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, as BT.2100-2 (table 4) states it."""
    power = linear ** (2610 / 16384)
    return ((3424 / 4096 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def test_colour_of_the_field():
    source = Location.of(shared_media("field") / "11_colour_matrix_8.mp4")
    assert isinstance(probe(source), MediaInfo)
    (clip,) = decode_clips(source, [ClipRequest(0.5, 112)], CONFIG)
    assert isinstance(clip, DecodedClip), clip
    with av.open(source.uri) as media:
        frame = next(media.decode(video=0))
        frame.colorspace = 1  # or libswscale refuses to enlarge the planes
        frame = frame.reformat(format="yuv444p")
        luma, green, orange = frame.to_ndarray().astype(float)
    luma, green, orange = (luma - 16) / 219, (green - 128) / 224, (orange - 128) / 224
    want = np.stack([luma - green + orange, luma + green, luma - green - orange], axis=-1)
    assert clip.video[0].mean((0, 1)) == pytest.approx(
        np.clip(want, 0, 1).mean((0, 1)) * 255, abs=6
    )


@pytest.mark.parametrize("number", [3, 18, 99])
def test_reserved_numbers_are_unspecified(number):
    frame = av.VideoFrame(64, 64, "yuv420p")
    for plane, value in zip(frame.planes, (90, 120, 150)):
        plane.update(bytes([value]) * plane.buffer_size)
    view = View(32, 32, 0.5, 0.5, None)
    frame.colorspace = 2
    want = to_rgb(frame, view).copy()
    frame.colorspace = number
    assert np.array_equal(to_rgb(frame, view), want)
