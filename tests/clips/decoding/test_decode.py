"""Geometry, colour and the shape of what comes out."""

from __future__ import annotations

import gc
import itertools
import threading

import av
import numpy as np
import pytest

from pipeline.clips.decoding.colour import Matrix
from pipeline.clips.decoding.decode import ClipRequest, decode_clips, probe
from pipeline.clips.decoding.decoder import View
from pipeline.clips.decoding.orientation import Orientation
from pipeline.clips.decoding.scaling import FrameKind, cut
from pipeline.clips.decoding.tracks import nvidia
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, turn, write

FLIPS = list(itertools.product((False, True), repeat=3))


def scene(path, width: int, height: int, pix_fmt: str = "yuv420p", **options):
    """A video of one frame: red rises to the right, green downwards."""
    x = np.linspace(0, 255, width)[None].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    pixels = np.stack([x, y, np.full_like(x, 128)], axis=2).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format=pix_fmt, **options)
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Location.of(path), pixels


def one(source, request, **video):
    config = ClipsConfig(video=VIDEO.model_copy(update=video))
    (clip,) = decode_clips(source, [request], config)
    return clip.video[3].astype(int)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (640, 360), (72, 54)])
@pytest.mark.parametrize("crop", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.2, 0.9)])
def test_crop_and_scale(tmp_path, width, height, crop):
    source, _ = scene(tmp_path / "video.mp4", width, height)
    shown = one(source, ClipRequest(0.2, 128, *crop))
    side = min(width, height) * 112 / 128
    left, top = crop[0] * (width - side), crop[1] * (height - side)
    for place in (8, 56, 104):
        want_x = (left + (place + 0.5) * side / 112) / width * 255
        want_y = (top + (place + 0.5) * side / 112) / height * 255
        assert shown[56, place, 0] == pytest.approx(want_x, abs=7)
        assert shown[place, 56, 1] == pytest.approx(want_y, abs=7)


def test_region(tmp_path):
    source, _ = scene(tmp_path / "video.mp4", 360, 288)
    shown = one(source, ClipRequest(0.2, 112), region=(115, 178, 80, 60), short_side=112)
    assert shown[:, 0, 0].mean() == pytest.approx((115 + 10) / 360 * 255, abs=7)
    assert shown[:, -1, 0].mean() == pytest.approx((195 - 10) / 360 * 255, abs=7)
    assert shown[0, :, 1].mean() == pytest.approx(178 / 288 * 255, abs=7)
    assert shown[-1, :, 1].mean() == pytest.approx(238 / 288 * 255, abs=7)
    outside = one(source, ClipRequest(0.2, 112), region=(350, 280, 80, 60), short_side=112)
    assert outside.shape == (112, 112, 3)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_pixel_formats(tmp_path, pix_fmt):
    source, frame = scene(tmp_path / "video.mp4", 321 if "444" in pix_fmt else 320, 240, pix_fmt)
    shown = one(source, ClipRequest(0.2, 128))
    assert shown[56, 56] == pytest.approx(frame[120, 160], abs=8)


@pytest.mark.parametrize("orientation", [Orientation(0, *flips) for flips in FLIPS])
@pytest.mark.parametrize("size", [(320, 240), (60, 90), (1, 1), (3, 5000), (4096, 2160)])
@pytest.mark.parametrize("crop", [(0.5, 0.5), (0.0, 1.0)])
def test_a_cut_lies_inside_its_picture(orientation, size, crop):
    kind = FrameKind(*size, "yuv420p", Matrix(1, 1), 1, orientation)
    for region in (None, (10, 20, 33, 41), (-5, -5, 10_000, 10_000)):
        for short_side in (112, 128, 160):
            x, y = cut(View(112, short_side, *crop, region), kind, (2, 2))
            for edge, length in zip((x, y), size):
                assert edge.start >= 0
                assert 1 <= edge.length <= length - edge.start
                assert 0 <= edge.offset <= edge.scaled - 112
            assert x.scaled * y.scaled < 400 * 400


def test_no_handles_or_threads_are_left(tmp_path):
    import os

    source = Location.of(write(tmp_path / "video.mp4", GeneratedVideo(seconds=2.0)))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((tmp_path / "video.mp4").read_bytes()[:3000])
    asked = [ClipRequest(c, 128) for c in (0.5, 1.5, 90.0)]
    decode_clips(source, asked, ClipsConfig(video=VIDEO))
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        decode_clips(source, asked, ClipsConfig(video=VIDEO))
        decode_clips(Location.of(broken), asked, ClipsConfig(video=VIDEO))
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_memory_stays_flat(tmp_path):
    """A short version of benchmarks/decode_memory.py."""
    sources = [
        Location.of(write(tmp_path / name, GeneratedVideo(seconds=2.0, video=video, audio=audio)))
        for name, video, audio in (
            ("a.mp4", "libx264", "aac"),
            ("b.mkv", "mpeg2video", "ac3"),
            ("c.webm", "libvpx-vp9", "libopus"),
        )
    ]

    def resident() -> int:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * 4096

    def decode(count: int) -> None:
        for i in range(count):
            request = ClipRequest(0.3 + i % 13 / 10, 128 + i % 32, (i % 7) / 6, (i % 5) / 4)
            decode_clips(sources[i % 3], [request], ClipsConfig(video=VIDEO))

    decode(150)
    before = resident()
    decode(300)
    assert resident() - before < 12 << 20


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotation(tmp_path, clockwise):
    """A phone's display matrix, written into the track header; red then rises elsewhere."""
    source, frame = scene(tmp_path / "video.mp4", 320, 240)
    turn(tmp_path / "video.mp4", clockwise)
    info = probe(source)
    assert info.rotation == clockwise
    assert (info.width, info.height) == ((240, 320) if clockwise != 180 else (320, 240))
    upright = np.rot90(frame, -clockwise // 90).astype(int)
    height = upright.shape[0]
    shown = one(source, ClipRequest(0.2, 128, 0.0, 1.0))
    side = 240 * 112 / 128
    for x, y in ((8, 56), (56, 8), (104, 104)):
        want = upright[int(height - side + (y + 0.5) * side / 112), int((x + 0.5) * side / 112)]
        assert shown[y, x] == pytest.approx(want, abs=8)


@pytest.mark.parametrize("video", ["libx264", "libx265", "mpeg4"])
def test_the_gpu_decodes_the_same_pictures(tmp_path, video):
    if nvidia() is None:
        pytest.skip("no NVIDIA decoder on this machine")
    # Larger than the clips: without scaling, libswscale has a path of its own for the CPU decoder's
    # planes, two levels of brightness away from the one that it has for a GPU's.
    source = Location.of(
        write(tmp_path / "video.mp4", GeneratedVideo(video=video, size=(320, 240)))
    )
    requests = [ClipRequest(centre, 128) for centre in (0.7, 2.0, 3.4)]
    config = ClipsConfig(video=VIDEO)
    ours = decode_clips(source, requests, config)
    theirs = decode_clips(source, requests, config.model_copy(update={"decoder": "cuda"}))
    for a, b in zip(ours, theirs):
        assert np.abs(a.video.astype(int) - b.video.astype(int)).mean() < 2
        assert np.array_equal(a.audio, b.audio)


def test_a_machine_without_a_gpu_decodes_all_the_same(tmp_path):
    if nvidia() is not None:
        pytest.skip("this machine has an NVIDIA decoder")
    source = Location.of(write(tmp_path / "video.mp4", GeneratedVideo()))
    config = ClipsConfig(video=VIDEO)
    (a,) = decode_clips(source, [ClipRequest(1.0, 128)], config)
    (b,) = decode_clips(
        source, [ClipRequest(1.0, 128)], config.model_copy(update={"decoder": "cuda"})
    )
    assert np.array_equal(a.video, b.video)


def test_no_frames_are_left_to_the_garbage_collector(tmp_path):
    """A frame whose side data was read holds itself, and all of its pixels."""
    source = Location.of(write(tmp_path / "video.mp4", GeneratedVideo(seconds=2.0)))
    turn(tmp_path / "video.mp4", 90)
    gc.collect()
    gc.disable()
    try:
        for centre in (0.3, 0.9, 1.5):
            decode_clips(source, [ClipRequest(centre, 128)], ClipsConfig(video=VIDEO))
        left = [each for each in gc.get_objects() if isinstance(each, av.VideoFrame)]
    finally:
        gc.enable()
    assert not left
