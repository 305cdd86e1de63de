"""What a clip shows, against a linear decode of the whole file.

ORACLE=all python -m pytest -s tests/clips/decoding/test_oracle.py    # every file, some minutes
"""

from __future__ import annotations

import os
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.decoding.media import opened
from pipeline.clips.decoding.shrink import shrink
from pipeline.config import ClipsConfig, VideoConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, number, write
from tests.clips.decoding.oracle import SIZE, LinearVideo
from tests.conftest import shared_media

TIMES = 40  # a file
ONE_FRAME = VideoConfig(frames=1, size=SIZE, short_side=SIZE, train_short_side=(SIZE, SIZE))
LEGIBLE = VideoConfig(frames=1, size=96, short_side=96, train_short_side=(96, 96))


def times_of(name: str, start_s: float, end_s: float) -> list[float]:
    return [random.Random(f"{name} {i}").uniform(start_s, end_s) for i in range(TIMES)]


def numbers(source: Location | bytes, times_s: list[float]) -> list[int | None]:
    """The number that is shown at each time; None: no picture."""
    clips = decode_clips(source, [ClipRequest(t, 96) for t in times_s], ClipsConfig(video=LEGIBLE))
    videos = [c.video if isinstance(c, DecodedClip) else None for c in clips]
    return [None if video is None else number(video[0]) for video in videos]


def alone(source: Location, times_s: list[float]) -> list[int | None]:
    """The same, each time by itself."""
    return [numbers(source, [time_s])[0] for time_s in times_s]


def stills(seconds: float) -> list[float]:
    """Pictures of a screen recording: movement for a while, then one that stays for seconds."""
    times, at, rng = [], 0.0, random.Random(4)
    while at < seconds:
        times.append(round(at, 3))
        at += rng.choice((0.04, 0.04, 0.04, 0.04, 0.5, 2.7, 23.0))
    return times


@pytest.mark.parametrize(
    ("container", "video", "audio"),
    [
        ("mp4", "libx264", "aac"),
        ("mov", "mjpeg", "pcm_s16le"),
        ("mkv", "libx264", "libopus"),
        ("mkv", "mpeg4", "aac"),
        ("webm", "libvpx", "libopus"),
        ("webm", "libvpx-vp9", "libopus"),
        ("flv", "libx264", "aac"),
        ("ts", "libx264", "aac"),
        ("ts", "libx265", "mp2"),
    ],
)
@pytest.mark.parametrize("bframes", [0, 2])
def test_a_picture_stays_until_the_next(tmp_path, container, video, audio, bframes):
    rate = 44_100 if container == "flv" else 48_000
    generated = GeneratedVideo(
        video=video, audio=audio, rate=rate, seconds=90.0, times=stills(90.0), gop=20
    )
    if bframes and (video not in ("libx264", "libx265") or container == "flv"):
        pytest.skip("this encoder reorders nothing, or its muxer wants no reordered frames")
    generated.bframes = bframes
    if video == "libx264" and not bframes:
        generated.options = {"tune": "zerolatency"}  # each picture is written before it is due
    path = write(tmp_path / f"screen.{container}", generated)
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert info.end_s > generated.times[-1]
    # Transport streams and FLV count from the first time stamp of any track.
    late = next(
        generated.times[0] + shift / 1000
        for shift in range(100)
        if numbers(Location.of(path), [generated.times[5] + shift / 1000]) == [5]
    )
    # Not within 50 ms of a change, which rounding may move.
    edges = np.array(generated.times)
    asked = [
        t
        for t in times_of(path.name, info.start_s, generated.times[-1])
        if np.abs(edges + late - t).min() > 0.05
    ]
    assert len(asked) > TIMES // 2
    wanted = [generated.shown_at(t - late) for t in asked]
    assert numbers(Location.of(path), asked) == wanted
    assert alone(Location.of(path), asked) == wanted


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_stored_picture_stays_until_the_next(tmp_path, codec):
    generated = GeneratedVideo(seconds=60.0, times=stills(60.0), gop=20, bframes=2)
    path = write(tmp_path / "screen.mkv", generated)
    config = ClipsConfig(video=LEGIBLE)
    for start_s in np.arange(0.0, 50.0, 3.7).tolist():
        stored = shrink(Location.of(path), start_s, start_s + 8.0, config, codec)
        assert isinstance(stored, bytes), stored
        asked = [start_s + f for f in (0.1, 1.9, 4.2, 7.9)]
        shown = numbers(stored, [t - start_s for t in asked])
        assert shown == [generated.shown_at(t) for t in asked], start_s
        assert stored == shrink(Location.of(path), start_s, start_s + 8.0, config, codec)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_periodic_intra_refresh_loses_no_picture(tmp_path, container):
    """A decoder that begins at a recovery point shows nothing until it has recovered."""
    options = {"intra-refresh": "1", "forced-idr": "0"}
    generated = GeneratedVideo(seconds=12.0, gop=60, bframes=0, options=options, audio=None)
    path = write(tmp_path / f"drone.{container}", generated)
    asked = [0.5, 1.1, 2.9, 3.3, 5.9, 7.7, 10.1, 11.9]
    wanted = [generated.shown_at(t + 1e-3) for t in asked]
    assert numbers(Location.of(path), asked) == wanted
    assert alone(Location.of(path), asked) == wanted


def without_offsets(path: Path, generated: GeneratedVideo) -> Path:
    """Frames stored in the order of decoding, as if they were shown in it."""
    whole = write(path.with_suffix(".h264.mp4"), generated)
    with av.open(str(whole)) as given, av.open(str(path), "w") as out:
        track = out.add_stream_from_template(given.streams.video[0])
        for count, packet in enumerate(given.demux(video=0)):
            if packet.size:
                packet.stream = track
                step = Fraction(1) / generated.fps / packet.time_base
                packet.pts = packet.dts = round(count * step)
                out.mux(packet)
    return path


@pytest.mark.parametrize("container", ["mp4", "mov", "flv"])
@pytest.mark.parametrize("bframes", [0, 3, 7])
def test_reordered_frames_without_offsets_come_in_the_decoders_order(tmp_path, container, bframes):
    params = {"x264-params": "b-adapt=0:b-pyramid=normal"}
    generated = GeneratedVideo(bframes=bframes, gop=50, audio=None, options=params, seconds=6.0)
    path = without_offsets(tmp_path / f"camera.{container}", generated)
    asked = [0.01 + n * 0.2 for n in range(29)]
    assert numbers(Location.of(path), asked) == [generated.shown_at(t) for t in asked]
    assert alone(Location.of(path), asked[::5]) == [generated.shown_at(t) for t in asked[::5]]


def compared(path: Path) -> tuple[int, list[str], int]:
    """How many times were compared, where the picture was another one, and how many had none."""
    info = probe_isolated(Location.of(path), 20.0)
    if not isinstance(info, MediaInfo) or not info.has_video or info.pieces > 1:
        return 0, [], 0
    asked = times_of(path.name, info.start_s, info.end_s)
    requests = [ClipRequest(t, SIZE) for t in asked]
    clips = decode_clips_isolated(Location.of(path), requests, ClipsConfig(video=ONE_FRAME))
    with opened(Location.of(path), 20.0) as media:
        linear = LinearVideo(path, media.video.index)
    wrong, rejected = [], 0
    for time_s, clip in zip(asked, clips):
        if not isinstance(clip, DecodedClip) or clip.video is None:
            rejected += 1
        elif not np.array_equal(clip.video[0], linear.at(time_s)):
            wrong.append(f"{path.name} at {time_s:.3f} s")
    return len(asked), wrong, rejected


def test_pictures_of_real_files_are_those_of_a_linear_decode():
    """At 99.9% of times; the rest are few enough to be counted."""
    everything = os.environ.get("ORACLE") == "all"
    folders = {"field": 1, "zoo": 4, "words/original": 6, "words/sentences": 70, "sky": 20}
    total = rejects = 0
    wrong: list[str] = []
    for folder, every in folders.items():
        files = sorted(p for p in shared_media(folder).rglob("*") if p.is_file())
        for path in files if everything else files[::every]:
            if path.name.startswith("07_"):
                continue  # reading its sound aborts libavutil; `test_sound` has these
            count, others, none = compared(path)
            total, rejects = total + count, rejects + none
            wrong += others
    print(f"{total} times, {len(wrong)} other pictures {wrong}, {rejects} rejects")
    assert total > 1000
    assert len(wrong) <= total / 1000, wrong
    assert rejects <= total / 1000
