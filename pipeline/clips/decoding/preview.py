"""A clip for people: a thumbnail and a short video with sound that browsers play.

Made of a stored clip (`shrink`), so it shows what encoders may see of the media: the same region
and the same seconds. H.264 and AAC in MP4 play in every browser without a plug-in.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from PIL import Image

from pipeline.clips.rejects import Reason, Reject, reject_for

WIDTH, HEIGHT = 160, 120  # at most
_FPS = 12
_TICK = Fraction(1, 1000)
_JPEG_QUALITY = 72
_VIDEO = {"crf": "31", "preset": "veryfast", "profile": "baseline"}
_AUDIO_BITS = 40_000  # a second


@dataclass(frozen=True)
class Preview:
    """What is shown of a clip."""

    thumbnail: bytes | None  # JPEG of its middle; None without video
    playable: bytes  # MP4
    samples: np.ndarray | None  # float32 [n] mono, -1 to 1, at `rate`; None without audio
    rate: int  # samples a second, 0 without audio


def preview(stored: bytes) -> Preview | Reject:
    """The preview of a stored clip, a small Matroska file."""
    try:
        return _preview(stored)
    except Exception as error:
        return reject_for(error, Reason.CORRUPT)


def _preview(stored: bytes) -> Preview:
    frames: list[VideoFrame] = []
    chunks: list[np.ndarray] = []
    rate = 0
    with av.open(io.BytesIO(stored), "r") as media:
        for frame in media.decode(*media.streams.video, *media.streams.audio):
            if isinstance(frame, VideoFrame):
                frames.append(frame)
            elif isinstance(frame, AudioFrame):
                rate = frame.sample_rate
                chunks.append(frame.to_ndarray().reshape(-1))
    samples = np.concatenate(chunks).astype(np.float32) / 32768 if chunks else None
    shown = list(_evenly(frames))
    return Preview(_jpeg(shown) if shown else None, _mp4(shown, samples, rate), samples, rate)


def _evenly(frames: list[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
    """Milliseconds and frame, at most `_FPS` a second, scaled down."""
    due = 0.0
    for frame, following in pairwise([*frames, None]):
        assert frame is not None
        at = frame.time or 0.0
        until = float("inf") if following is None else following.time or 0.0
        if until > due:
            scale = min(WIDTH / frame.width, HEIGHT / frame.height, 1.0)
            width, height = (max(2, round(e * scale / 2) * 2) for e in (frame.width, frame.height))
            small = frame.reformat(width, height, "yuv420p", interpolation="AREA")
            yield round(at * 1000), small
            due = max(at, due) + 1 / _FPS


def _jpeg(shown: list[tuple[int, VideoFrame]]) -> bytes:
    image: Image.Image = shown[len(shown) // 2][1].to_image()
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_JPEG_QUALITY)
    return data.getvalue()


def _mp4(shown: list[tuple[int, VideoFrame]], samples: np.ndarray | None, rate: int) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="mp4", container_options={"fflags": "bitexact"}) as out:
        tracks: list[tuple[Any, list[Any]]] = []
        if shown:
            track: Any = out.add_stream("libx264", rate=_FPS, options=dict(_VIDEO))
            track.width, track.height = shown[0][1].width, shown[0][1].height
            track.pix_fmt, track.codec_context.thread_count = "yuv420p", 1
            track.time_base = track.codec_context.time_base = _TICK
            frames: list[Any] = []
            for at, frame in shown:
                frame.pts, frame.time_base, frame.pict_type = at, _TICK, 0
                frames.append(frame)
            tracks.append((track, frames))
        if samples is not None:
            track = out.add_stream("aac", rate=rate, layout="mono")
            track.bit_rate = _AUDIO_BITS
            sound: Any = AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
            tracks.append((track, [sound]))
        for track, content in tracks:
            for frame in [*content, None]:
                out.mux(track.encode(frame))
    return data.getvalue()
