"""Photographs are no films, whatever opens them; films in which nothing moves are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import (
    VIDEO,
    GeneratedVideo,
    frame_pixels,
    number,
    write,
)
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VIDEO)


def images(path: Path, codec: str, format: str, count: int = 1, pix_fmt: str = "") -> Path:
    """Encode a few small frames, 25 a second."""
    options = {"update": "1"} if format == "image2" else {}
    with av.open(str(path), "w", format=format, options=options) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = pix_fmt or next(f.name for f in stream.codec_context.codec.video_formats)
        for place in range(count):
            frame = av.VideoFrame.from_ndarray(frame_pixels(place, (64, 64)), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts = place
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


IMAGES = {
    "photo.avif": ("libsvtav1", "avif"),
    "photo.webp": ("libwebp", "webp"),
    "photo.gif": ("gif", "gif"),
    "photo.apng": ("apng", "apng"),
    "photo.tiff": ("tiff", "image2"),
    "photo.bmp": ("bmp", "image2"),
    "photo.jp2": ("jpeg2000", "image2"),
    "photo.exr": ("exr", "image2"),
    "photo.pam": ("pam", "image2"),
    "photo.ico": ("bmp", "ico"),
    "photo.mjpeg": ("mjpeg", "mjpeg"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_one_image(tmp_path, name):
    result = probe(Location.of(images(tmp_path / name, *IMAGES[name])))
    assert isinstance(result, Reject), result
    assert result.reason is Reason.STILL_IMAGE, result
    # Whatever it is called.
    (tmp_path / name).rename(tmp_path / "film.mp4")
    result = probe(Location.of(tmp_path / "film.mp4"))
    assert isinstance(result, Reject)
    assert result.reason is Reason.STILL_IMAGE or name == "photo.pam", result


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"])
def test_photographs_of_many_tiles(tmp_path, brands):
    """Known by their brand, even with two tiles and in a codec that nobody decodes."""
    path = images(tmp_path / "photo.heic", "libsvtav1", "avif")
    data = path.read_bytes()
    size = int.from_bytes(data[:4], "big")
    head = (b"ftyp" + brands).ljust(size - 4, b"\0")
    path.write_bytes(data[:4] + head + data[size:].replace(b"av01", b"zz01"))
    result = probe(Location.of(path))
    assert isinstance(result, Reject)
    assert result.reason is Reason.STILL_IMAGE, result


@pytest.mark.parametrize(
    ("name", "codec", "format"),
    [("film.gif", "gif", "gif"), ("film.apng", "apng", "apng"), ("film.avif", "libsvtav1", "avif")],
)
def test_image_sequences_are_films(tmp_path, name, codec, format):
    """An AVIF sequence also holds its first frame as an image of its own."""
    film = GeneratedVideo(video=codec, audio=None, seconds=2.0)
    source = Location.of(write(tmp_path / name, film, format=format))
    info = probe(source)
    assert isinstance(info, MediaInfo), info
    assert info.end_s == pytest.approx(2, abs=0.1)
    (clip,) = decode_clips(source, [ClipRequest(1.0, 128)], CONFIG)
    assert isinstance(clip, DecodedClip)
    shown = [film.shown_at(1.0 + (i - 3.5) / 30) for i in range(8)]
    assert [number(frame) for frame in clip.video] == shown


def test_one_picture_and_sound_is_a_film(tmp_path):
    path = tmp_path / "song.mp4"
    write(path, GeneratedVideo(times=[0.0], seconds=3.0))
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert info.has_audio


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_still_scene_of_hours(tmp_path, suffix):
    film = GeneratedVideo(
        audio=None,
        times=[10.0 * n for n in range(720)],
        seconds=7200.0,
        size=(64, 64),
        gop=250,
        options={"crf": "51"},
    )
    source = Location.of(write(tmp_path / f"scene.{suffix}", film))
    info = probe(source)
    assert isinstance(info, MediaInfo), info
    assert info.end_s == pytest.approx(7200, abs=21)
    if suffix != "ts":  # whose packets are stuffed
        assert source.info().size / 7200 < 50


@pytest.mark.parametrize("stray_from", [40, 99])
def test_stray_stamps_are_no_hours(tmp_path, stray_from):
    """As many packets as before, but the last ones are stamped a day later."""
    film = write(tmp_path / "film.mp4", GeneratedVideo(audio=None, bframes=0, fps=Fraction(25)))
    path = tmp_path / "stray.mkv"
    with av.open(str(film)) as media, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(media.streams.video[0])
        for count, packet in enumerate(p for p in media.demux() if p.size):
            packet.stream = stream
            if count >= stray_from:
                packet.pts += round(86_400 / packet.time_base)
                packet.dts += round(86_400 / packet.time_base)
            out.mux(packet)
    result = probe(Location.of(path))
    assert isinstance(result, Reject), result
    assert result.reason is Reason.CORRUPT
    assert "with nothing for" in result.detail


def test_photograph_of_the_field():
    result = probe(Location.of(shared_media("field") / "04_photo.heic"))
    assert isinstance(result, Reject)
    assert result.reason is Reason.STILL_IMAGE


def test_still_scene_of_the_field():
    source = Location.of(shared_media("field") / "13_static_2h_1fps.mp4")
    info = probe(source)
    assert isinstance(info, MediaInfo)
    assert info.end_s == pytest.approx(7200, abs=2)
    for clip in decode_clips(source, [ClipRequest(t, 128) for t in (1, 3600, 7190)], CONFIG):
        assert isinstance(clip, DecodedClip), clip
