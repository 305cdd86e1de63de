"""Mono samples at another rate, on a grid that belongs to the clock and not to the window.

Output sample `k` lies at `k / rate` seconds of media time, whatever window asks for it: two clips
that share an instant share its samples to the last bit, and all of the filter's phase follows from
the clock.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph

# Real neighbours for the filter, which reaches 16 periods of the slower rate to either side.
MARGIN_S = 0.01
_CHUNK = 1 << 14  # samples pushed at once: they stay in the cache


def source_span(start_s: float, count: int, source_rate: int, rate: int) -> tuple[int, int]:
    """First and end source sample that `resample` needs for ``count`` samples from ``start_s``.

    Sample 0 of both grids is media time 0.
    """
    up, down = _ratio(source_rate, rate)
    first = round(start_s * rate)
    margin = 0 if up == down else math.ceil(max(MARGIN_S, 20 / source_rate, 20 / rate) * rate)
    blocks = (first - margin) // up, -((first + count + margin) // -up)
    return blocks[0] * down, blocks[1] * down


def resample(
    wave: np.ndarray, start_s: float, count: int, source_rate: int, rate: int
) -> np.ndarray:
    """Float32 [count] at ``rate`` from ``start_s``, of ``wave`` that covers `source_span`."""
    up, down = _ratio(source_rate, rate)
    if up == down:
        return wave
    first = round(start_s * rate)
    begin = source_span(start_s, count, source_rate, rate)[0] // down * up
    return _filtered(wave, source_rate, rate)[first - begin :][:count]


def _filtered(wave: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """All of it by libswresample, whose first output sample is at the first input sample."""
    graph = Graph()
    graph.threads = 1
    layout = "sample_fmt=flt:channel_layout=mono"
    source = graph.add("abuffer", f"sample_rate={source_rate}:{layout}:time_base=1/{source_rate}")
    sink = graph.add("abuffersink")
    graph.link_nodes(source, graph.add("aresample", f"{rate}:osf=flt"), sink).configure()
    graph.set_audio_frame_size(1 << 16)  # samples that are pulled at once
    for at in range(0, len(wave), _CHUNK):
        frame = AudioFrame.from_ndarray(wave[None, at : at + _CHUNK], "flt", "mono")
        frame.sample_rate = source_rate
        source.push(frame)
    source.push(None)
    parts: list[np.ndarray] = []
    with suppress(EOFError):
        while True:
            parts.append(cast(AudioFrame, sink.pull()).to_ndarray()[0])
    return np.concatenate(parts or [np.empty(0, np.float32)])


def _ratio(source_rate: int, rate: int) -> tuple[int, int]:
    """After ``down`` source samples, ``up`` samples have come out and both grids meet again."""
    common = math.gcd(source_rate, rate)
    return rate // common, source_rate // common
