"""What a clip sounds like, against a linear decode of the whole file.

ORACLE=all python -m pytest -s tests/clips/decoding/test_sound_oracle.py    # every file, minutes
"""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.decoding.media import opened
from pipeline.config import ClipsConfig, VideoConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.clips.decoding.test_clock import FORMATS
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VideoConfig(size=48, short_side=48, train_short_side=(48, 48)))
RATE = CONFIG.audio.rate
EDGE_S = 1.0  # silence on either side of the track
GAP_S = 0.02


class LinearSound:
    """All of a track, decoded from the file's start; `at` gives a window's samples."""

    def __init__(self, path: Path) -> None:
        runs: list[tuple[int, list[np.ndarray], list[float]]] = []  # rate, samples, starts
        with opened(Location.of(path), 60, lean=False) as media:
            track = media.audio
            for packet in media.container.demux(track):
                try:
                    frames = track.codec_context.decode(packet)
                except (av.error.FFmpegError, ValueError):
                    continue
                for frame in frames:
                    mono = self._mono(frame)
                    length = sum(map(len, runs[-1][1])) / frame.sample_rate if runs else 0.0
                    begin = media.seconds(frame.pts, track) - length if frame.pts is not None else 0
                    if not runs or (frame.pts is not None and abs(begin - runs[-1][2][0]) > GAP_S):
                        runs.append((frame.sample_rate, [], []))
                        begin = media.seconds(frame.pts or 0, track)
                    runs[-1][1].append(mono)
                    runs[-1][2].append(begin)
        self.gaps = len(runs) - 1
        rate, parts, begins = runs[0]
        usual = [begin for begin in begins if abs(begin - np.median(begins)) <= 1e-3]
        wave, self.start_s = np.concatenate(parts), float(np.mean(usual))
        common = math.gcd(rate, RATE)
        up, down = RATE // common, rate // common
        first = round(self.start_s * rate)
        self._first = first // down * up
        self._wave = resample_poly(np.pad(wave, (first % down, 0)), up, down)

    def at(self, start_s: float, count: int) -> np.ndarray:
        offset = round(start_s * RATE) - self._first
        out = np.zeros(count)
        lo, hi = max(0, offset), min(len(self._wave), offset + count)
        if hi > lo:
            out[lo - offset : hi - offset] = self._wave[lo:hi]
        return np.clip(out, -1, 1)

    @staticmethod
    def _mono(frame: av.AudioFrame) -> np.ndarray:
        data = frame.to_ndarray()
        if frame.format.is_packed:
            data = data.reshape(-1, frame.layout.nb_channels).T
        if data.dtype == np.uint8:
            data = (data.astype(float) - 128) / 128
        elif data.dtype.kind == "i":
            data = data / -float(np.iinfo(data.dtype).min)
        return data[0] if frame.layout.name.startswith("ambisonic") else data.mean(axis=0)


def misses(path: Path, count: int) -> tuple[int, list[str]]:
    """Compared windows, and those in which 10 ms differ by more than rounding of the clock."""
    info = probe_isolated(Location.of(path), 20.0)
    if not isinstance(info, MediaInfo) or not info.has_audio or info.pieces > 1:
        return 0, []
    linear = LinearSound(path)
    if linear.gaps:
        return 0, []
    rng = random.Random(path.name)
    centres = [info.start_s, info.end_s]
    centres += [rng.uniform(info.start_s, info.end_s) for _ in range(count - 2)]
    requests = [ClipRequest(centre_s, 48, video=False) for centre_s in centres]
    wrong = []
    for centre_s, clip in zip(centres, decode_clips_isolated(Location.of(path), requests, CONFIG)):
        if not isinstance(clip, DecodedClip):
            wrong.append(f"{path.name} at {centre_s:.3f} s: {clip}")
            continue
        want = linear.at(centre_s - CONFIG.audio.window_s / 2, len(clip.audio))
        off = np.square(clip.audio - want).reshape(-1, RATE // 100).mean(axis=1) ** 0.5
        # A sample of the source to either side, where its container counts milliseconds.
        if off.max() > 0.05 + 0.6 * want.std():
            wrong.append(f"{path.name} at {centre_s:.3f} s: {off.max():.3f} at {off.argmax()}0 ms")
    return len(centres), wrong


KINDS = sorted({(container, audio): video for container, video, audio, *_ in FORMATS}.items())


@pytest.mark.parametrize(("container", "audio", "video"), [(*key, v) for key, v in KINDS])
@pytest.mark.parametrize("begins", ["together", "sound first", "picture first"])
def test_sound_is_that_of_a_linear_decode(tmp_path, container, audio, video, begins):
    generated = GeneratedVideo(
        video=video,
        audio=audio,
        rate=44_100 if container == "flv" else 48_000,
        layout="stereo" if audio == "vorbis" else "mono",
        seconds=6.0,
        gop=40,
        size=(64, 64),
        video_from=0.8 if begins == "sound first" else 0.0,
        audio_from=0.8 if begins == "picture first" else 0.0,
    )
    path = write(tmp_path / f"{begins}.{container}", generated)
    count, wrong = misses(path, 8)
    assert count == 8
    assert not wrong


@pytest.mark.parametrize(
    ("container", "audio"),
    [
        ("ogg", "libopus"),
        ("ogg", "vorbis"),
        ("mp3", "libmp3lame"),
        ("m4a", "aac"),
        ("aac", "aac"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
        ("ts", "aac"),
    ],
)
def test_sound_alone_is_that_of_a_linear_decode(tmp_path, container, audio):
    layout = "stereo" if audio == "vorbis" else "mono"
    generated = GeneratedVideo(video=None, audio=audio, rate=44_100, layout=layout, seconds=6.0)
    if audio == "libopus":
        generated.rate = 48_000
    format_name = "adts" if container == "aac" else None
    count, wrong = misses(write(tmp_path / f"a.{container}", generated, format_name), 8)
    assert count == 8
    assert not wrong


def test_sound_of_real_files_is_that_of_a_linear_decode():
    """At 99.9% of times, but for the noise that decoders fill in."""
    everything = os.environ.get("ORACLE") == "all"
    folders = {"field": 6, "esc": 40, "words/original": 10, "words/sentences": 150}
    total = 0
    wrong: list[str] = []
    for folder, every in folders.items():
        files = sorted(p for p in shared_media(folder).rglob("*") if p.is_file())
        for path in files if everything else files[::every]:
            if path.name.startswith("07_"):
                continue  # PyAV alone cannot read these layouts
            count, others = misses(path, 40)
            total, wrong = total + count, wrong + others
    print(f"{total} times, {len(wrong)} with other sound")
    assert total > 100
    assert len(wrong) <= total / 1000, wrong
