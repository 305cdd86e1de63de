"""Where in its window a clip is taken, and how: pure mathematics, no media.

Everything random is drawn from (seed, round, position in the round's order, clip index), never
from the rank of a worker or the order of arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.clips.decoding.decode import ClipRequest
from pipeline.config import ClipsConfig


@dataclass(frozen=True)
class Draw:
    """One training sample: what to decode, and whether to mirror it afterwards."""

    request: ClipRequest
    mirror: bool


def centre_range(start_s: float, end_s: float, config: ClipsConfig) -> tuple[float, float]:
    """Earliest and latest centre of a clip sampled in the window [start_s, end_s].

    A window shorter than a clip is sampled at its middle, give or take ``jitter_s``.
    """
    half = config.span_s / 2
    if end_s - start_s > 2 * half:
        return start_s + half, end_s - half
    middle = (start_s + end_s) / 2
    return middle - config.jitter_s, middle + config.jitter_s


def reach(start_s: float, end_s: float, config: ClipsConfig) -> tuple[float, float]:
    """First and last media time that a clip sampled in the window may need."""
    earliest, latest = centre_range(start_s, end_s, config)
    before, after = around(config)
    return earliest - before, latest + after


def around(config: ClipsConfig) -> tuple[float, float]:
    """How far a clip reaches before and after its centre, in seconds."""
    frames = (config.video.frames - 1) / 2 / config.video.fps
    window = config.audio.window_s
    before = frames if config.audio.align == "start" else window / 2
    # A frame more on the early side: the first one shown may have appeared before its time.
    return max(frames, before) + 1 / config.video.fps, max(frames, window - before)


def centred(
    start_s: float, end_s: float, config: ClipsConfig, video: bool, audio: bool
) -> ClipRequest:
    """The clip at the middle of its window, centre crop: for embedding and evaluation."""
    middle_s = (start_s + end_s) / 2
    return ClipRequest(middle_s, config.video.short_side, video=video, audio=audio)


def augmented(
    start_s: float, end_s: float, config: ClipsConfig, video: bool, audio: bool, key: Sequence[int]
) -> Draw:
    """A clip at a random time, scale and place, mirrored half of the time.

    All is drawn from the `key` (seed, round, position, clip index).
    """
    time, scale, x, y, mirror = np.random.Generator(np.random.PCG64(key)).random(5)
    earliest, latest = centre_range(start_s, end_s, config)
    smallest, largest = config.video.train_short_side
    centre_s = earliest + time * (latest - earliest)
    short_side = smallest + round(scale * (largest - smallest))
    request = ClipRequest(centre_s, short_side, x, y, video, audio)
    return Draw(request, config.video.flip and mirror < 0.5)
