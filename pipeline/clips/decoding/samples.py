"""The samples of a window of media time, from an audio track's packets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.filter import Graph
from av.packet import Packet

from pipeline.clips.decoding.decoder import OUTSIDE_S
from pipeline.clips.decoding.encryption import reject_encrypted
from pipeline.clips.decoding.media import Media

# Codecs that overlap their blocks or carry bits over need packets from before the window: Opus
# asks for 80 ms, MP3's reservoir reaches back some frames, AAC and Vorbis one block.
PREROLL_S = 0.1
# A gap of this length starts a new stretch; less is rounding (Matroska, FLV count milliseconds).
_JUMP_S = 0.02


@dataclass
class Stretch:
    """Audio frames without a gap."""

    start_s: float  # media time of the first sample
    frames: list[AudioFrame]
    end_s: float  # media time of the end of the last


def decode_stretches(
    media: Media, packets: Sequence[Packet], start_s: float, end_s: float
) -> list[Stretch]:
    """Decode packets, in order, into stretches of samples that touch ``[start_s, end_s)``.

    Raises:
        Reject: UNSUPPORTED: they are encrypted.
    """
    assert media.audio is not None
    reject_encrypted(packets)
    context = media.audio.codec_context
    context.flush_buffers()
    stretches: list[Stretch] = []
    clock: float | None = None
    for packet in [*packets, None]:
        try:
            frames = context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            continue
        for frame in frames:
            if not frame.samples or not frame.sample_rate:
                continue
            length = frame.samples / frame.sample_rate
            if frame.pts is not None:
                at = media.seconds(frame.pts, media.audio)
            elif clock is not None:
                at = clock
            elif packet is not None and packet.dts is not None:
                at = media.seconds(packet.dts, media.audio)
            else:
                at = start_s
            clock = at + length
            # A frame more on either side gives the resampler's filter real neighbours.
            if clock < start_s - length or at > end_s + length:
                continue
            last = stretches[-1] if stretches else None
            if last is None or abs(at - last.end_s) > _JUMP_S or not _alike(frame, last.frames[0]):
                stretches.append(Stretch(at, [frame], clock))
            else:
                last.frames.append(frame)
                last.end_s += length
    context.flush_buffers()
    return stretches


def resampled(
    stretches: Sequence[Stretch], start_s: float, count: int, rate: int
) -> np.ndarray | None:
    """Mono float32 [count], -1 to 1, zero between stretches; None: none lies within `OUTSIDE_S`."""
    end_s = start_s + count / rate
    if not any(s.start_s < end_s + OUTSIDE_S and s.end_s > start_s - OUTSIDE_S for s in stretches):
        return None
    out = np.zeros(count, np.float32)
    for stretch in stretches:
        first_s, frames = _needed(stretch, start_s, end_s)
        if not frames:
            continue
        data = _mono(frames, rate)
        offset = round((first_s - start_s) * rate)
        lo, hi = max(0, offset), min(count, offset + len(data))
        if hi > lo:
            out[lo:hi] = data[lo - offset : hi - offset]
    # Damaged floating-point audio holds anything; a NaN would poison whatever is trained on it.
    return np.clip(np.nan_to_num(out, copy=False, posinf=0, neginf=0), -1, 1, out=out)


def _needed(stretch: Stretch, start_s: float, end_s: float) -> tuple[float, list[AudioFrame]]:
    """The frames for a window, with real neighbours for the filter, and the first one's time."""
    at = first_s = stretch.start_s
    needed: list[AudioFrame] = []
    for frame in stretch.frames:
        length = frame.samples / frame.sample_rate
        if at + 2 * length > start_s and at - length < end_s:
            if not needed:
                first_s = at
            needed.append(frame)
        at += length
    return first_s, needed


def _mono(frames: Sequence[AudioFrame], rate: int) -> np.ndarray:
    """Frames without a gap as float32 [n] at ``rate``."""
    if frames[0].layout.nb_channels > 8 or frames[0].layout.name.endswith("channels"):
        # libswresample refuses to mix channels whose places it does not know.
        frames = [_averaged(frame) for frame in frames]
    first = frames[0]
    # av.AudioResampler pulls after each push, in frames as small as they came: three times slower.
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "abuffer",
        f"sample_rate={first.sample_rate}:sample_fmt={first.format.name}"
        f":channel_layout={first.layout.name}:time_base=1/{first.sample_rate}",
    )
    sink = graph.add("abuffersink")
    shape = graph.add("aformat", f"sample_rates={rate}:sample_fmts=flt:channel_layouts=mono")
    graph.link_nodes(source, shape, sink).configure()
    graph.set_audio_frame_size(1 << 16)  # samples that are pulled at once
    for frame in frames:
        frame.pts = None
        source.push(frame)
    source.push(None)
    parts: list[np.ndarray] = []
    with suppress(EOFError):
        while True:
            parts.append(cast(AudioFrame, sink.pull()).to_ndarray()[0])
    return np.concatenate(parts or [np.empty(0, np.float32)])


def _averaged(frame: AudioFrame) -> AudioFrame:
    data: Any = frame.to_ndarray()
    if frame.format.is_packed:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if data.dtype == np.uint8:
        data = (data.astype(np.float32) - 128) / 128
    elif np.issubdtype(data.dtype, np.integer):
        data = data / -float(np.iinfo(data.dtype).min)
    with np.errstate(all="ignore"):
        mean = np.ascontiguousarray(data.mean(axis=0, dtype=np.float32)[None])
    mono = AudioFrame.from_ndarray(mean, format="fltp", layout="mono")
    mono.sample_rate = frame.sample_rate
    return mono


def _alike(a: AudioFrame, b: AudioFrame) -> bool:
    same_layout = AudioLayout(a.layout.name).name == b.layout.name
    return a.format.name == b.format.name and a.sample_rate == b.sample_rate and same_layout
