"""The samples of a window of media time, from an audio track's packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet

from pipeline.clips.decoding.audio_decoders import fresh_decoder
from pipeline.clips.decoding.decoder import OUTSIDE_S
from pipeline.clips.decoding.encryption import reject_encrypted
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.mixing import Kind, guarded, kind_of, mixed
from pipeline.clips.decoding.resampling import resample, source_span

# Codecs that overlap their blocks or carry bits over need packets from before the window: Opus
# asks for 80 ms, MP3's reservoir reaches back some frames, AAC and Vorbis one block.
PREROLL_S = 0.1
AROUND_S = 0.05  # real neighbours of the window, for the resampler's filter
# A gap of this length starts a new stretch; less is rounding (Matroska, FLV count milliseconds).
_JUMP_S = 0.02
_ROUNDING_S = 0.001
_MAX_RATE = 1 << 22  # DSD512 has 2.8 million samples a second; a damaged header has any number
_LOUDEST = 4.0  # 12 dB above full scale; more is damage, which the filter would spread


@dataclass
class Stretch:
    """Mono samples without a gap."""

    start_s: float  # media time of the first sample
    rate: int
    samples: np.ndarray  # float32 [n]

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.samples) / self.rate


@dataclass
class _Run:
    """Audio frames of one kind without a gap."""

    kind: Kind
    first_s: float  # as the first frame's timestamp says
    end_s: float
    frames: list[AudioFrame] = field(default_factory=list)
    offsets_s: list[float] = field(default_factory=list)  # of timestamps from the sum of lengths

    def stretch(self) -> Stretch:
        # Containers that count milliseconds round each timestamp, and their mean is right. Single
        # ones are far off: Ogg guesses those of some of Vorbis' blocks.
        middle = sorted(self.offsets_s)[len(self.offsets_s) // 2]
        usual = [offset for offset in self.offsets_s if abs(offset - middle) <= _ROUNDING_S]
        start_s = self.first_s + sum(usual) / len(usual)
        return Stretch(start_s, self.kind[1], mixed(self.frames, self.kind))


def decode_stretches(
    media: Media, packets: Sequence[Packet], start_s: float, end_s: float
) -> list[Stretch]:
    """Decode packets, in order, into stretches of samples that touch ``[start_s, end_s)``.

    The same packets give the same samples, whatever was decoded before.

    Raises:
        Reject: UNSUPPORTED: they are encrypted.
    """
    reject_encrypted(packets)
    runs: list[_Run] = []
    last: _Run | None = None
    for frame, at, length in _frames(media, packets, start_s):
        if at + length < start_s - AROUND_S or at > end_s + AROUND_S:
            continue
        kind = kind_of(frame)
        if last is None or abs(at - last.end_s) > _JUMP_S or kind != last.kind:
            last = _Run(kind, at, at)
            runs.append(last)
        last.offsets_s.append(at - last.end_s)
        last.frames.append(frame)
        last.end_s += length
    return [run.stretch() for run in runs]


def resampled(
    stretches: Sequence[Stretch], start_s: float, count: int, rate: int
) -> np.ndarray | None:
    """Mono float32 [count], -1 to 1, zero between stretches; None: none lies within `OUTSIDE_S`."""
    end_s = start_s + count / rate
    near = [s for s in stretches if s.start_s < end_s + OUTSIDE_S and s.end_s > start_s - OUTSIDE_S]
    if not near:
        return None
    total = np.zeros(count, np.float32)
    for source_rate in dict.fromkeys(stretch.rate for stretch in near):
        begin, end = source_span(start_s, count, source_rate, rate)
        line = np.zeros(end - begin, np.float32)
        for stretch in near:
            if stretch.rate == source_rate:
                _place(stretch.samples, round(stretch.start_s * source_rate) - begin, line)
        # A NaN or an infinity would poison whatever is trained on it.
        np.nan_to_num(line, copy=False, posinf=0, neginf=0)
        np.clip(line, -_LOUDEST, _LOUDEST, out=line)
        total += resample(line, start_s, count, source_rate, rate)
    return np.clip(total, -1, 1, out=total)


def _frames(
    media: Media, packets: Sequence[Packet], start_s: float
) -> Iterator[tuple[AudioFrame, float, float]]:
    """Decoded frames with their media times and lengths; what cannot be decoded is left out."""
    track = media.audio
    assert track is not None
    context = fresh_decoder(media, packets)
    clock: float | None = None
    for packet in [*packets, None]:
        try:
            frames = guarded(context.decode(packet))
        except (av.error.FFmpegError, ValueError):
            continue
        for frame in frames:
            count, rate, stamp = frame.samples, frame.sample_rate, frame.pts
            if not count or not 0 < rate <= _MAX_RATE:
                continue
            if stamp is not None:
                at = media.seconds(stamp, track)
            elif clock is not None:
                at = clock
            elif packet is not None and packet.dts is not None:
                at = media.seconds(packet.dts, track)
            else:
                at = start_s
            length = count / rate
            clock = at + length
            yield frame, at, length


def _place(samples: np.ndarray, at: int, line: np.ndarray) -> None:
    """Write samples into a line, of which they begin at place ``at``."""
    lo, hi = max(0, at), min(len(line), at + len(samples))
    if hi > lo:
        line[lo:hi] = samples[lo - at : hi - at]
