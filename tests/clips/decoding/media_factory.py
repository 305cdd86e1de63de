"""Files whose every frame and sample say when they were meant to be seen and heard.

Each frame carries its number as 12 black or white blocks; a beep starts at every time of
`BEEPS`. So a test can read off which instant of the content a decoded clip shows and audios.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.config import VideoConfig

VIDEO = VideoConfig(size=112, short_side=128, train_short_side=(128, 160))
SIDE = 128
_COLUMNS, _ROWS = 4, 3
BEEP_S = 0.03
BEEPS = tuple(0.31 + 0.73 * k for k in range(40))


@dataclass
class GeneratedVideo:
    """What to write; times in seconds of the content's clock.

    Attributes:
        times: when each frame appears; `fps` and `seconds` when None.
        video_from, audio_from: the content before that is not in the track.
        shift: added to every timestamp of the file.
    """

    video: str | None = "libx264"
    audio: str | None = "aac"
    fps: Fraction = Fraction(25)
    seconds: float = 4.0
    times: Sequence[float] | None = None
    rate: int = 48_000
    layout: str = "mono"
    gop: int = 12
    bframes: int | None = None
    video_from: float = 0.0
    audio_from: float = 0.0
    shift: float = 0.0
    rotation: int = 0
    pix_fmt: str = ""
    size: tuple[int, int] = (SIDE, SIDE)
    container: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    def frame_times(self) -> list[float]:
        if self.times is not None:
            return list(self.times)
        return [float(i / self.fps) for i in range(round(self.seconds * self.fps))]

    def shown_at(self, content_s: float) -> int:
        """Number of the frame displayed at a time of the content."""
        times = [t for t in self.frame_times() if t >= self.video_from - 1e-9]
        first = len(self.frame_times()) - len(times)
        before = sum(t <= content_s + 2e-3 for t in times)
        return first + max(0, before - 1)


def frame_pixels(number: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """RGB uint8 [height, width, 3] with the number in blocks."""
    width, height = size
    bits = [(number >> b) & 1 for b in range(_COLUMNS * _ROWS)]
    grid = np.array(bits, np.uint8).reshape(_ROWS, _COLUMNS) * 190 + 30
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    return np.repeat(grid[rows][:, columns][..., None], 3, axis=2)


def number(shown: np.ndarray) -> int:
    """The number in a decoded square frame [side, side, 3]."""
    side = shown.shape[0]
    value = 0
    for bit in range(_COLUMNS * _ROWS):
        y = int((bit // _COLUMNS + 0.5) / _ROWS * side)
        x = int((bit % _COLUMNS + 0.5) / _COLUMNS * side)
        value |= int(shown[y - 3 : y + 4, x - 3 : x + 4].mean() > 125) << bit
    return value


def waveform(start_s: float, end_s: float, rate: int) -> np.ndarray:
    """Float32 mono samples of [start_s, end_s)."""
    t = start_s + np.arange(round((end_s - start_s) * rate)) / rate
    wave = np.zeros(len(t), np.float32)
    for beep in BEEPS:
        inside = (t >= beep) & (t < beep + BEEP_S)
        wave[inside] = 0.7 * np.cos(2 * np.pi * 1000 * (t[inside] - beep))
    return wave


def heard(wave: np.ndarray, start_s: float, rate: int) -> list[float]:
    """Times at which beeps start in decoded audio; those cut by its edges are left out."""
    loud = np.abs(wave) > 0.3
    onsets = []
    last = -1.0
    for i in np.flatnonzero(loud):
        at = i / rate
        if at - last > 2 * BEEP_S and BEEP_S < at < len(wave) / rate - BEEP_S:
            onsets.append(start_s + at)
        last = at
    return onsets


def write(path: Path, generated: GeneratedVideo, format: str | None = None) -> Path:
    """Encode and mux a video."""
    with av.open(str(path), "w", format=format, options=generated.container) as out:
        video = _video_packets(out, generated) if generated.video else iter(())
        audio = _audio_packets(out, generated) if generated.audio else iter(())
        # In the order of the clock, as a muxer expects them.
        heads = [next(video, None), next(audio, None)]
        sources = [video, audio]
        while any(head is not None for head in heads):
            which = min((h[0], i) for i, h in enumerate(heads) if h is not None)[1]
            for packet in heads[which][1]:  # type: ignore[index]
                out.mux(packet)
            heads[which] = next(sources[which], None)
    return path


def with_noise(path: Path, modality: str, from_s: float) -> Path:
    """The same file, a modality's packets from a time on replaced by noise."""
    rng = random.Random(5)
    out_path = path.with_name(f"no_{modality}_{path.name}")
    with av.open(str(path)) as given, av.open(str(out_path), "w") as out:
        tracks = {s.index: out.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if not packet.size:
                continue
            if packet.stream.type == modality and float(packet.pts * packet.time_base) >= from_s:
                noise = av.Packet(rng.randbytes(packet.size))
                noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
                noise.is_keyframe = packet.is_keyframe
                packet, index = noise, packet.stream_index
            else:
                index = packet.stream_index
            packet.stream = tracks[index]
            out.mux(packet)
    return out_path


def turn(path: Path, clockwise: int) -> Path:
    """Write a phone's display matrix into an mp4 file's first track header."""
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[clockwise]
    return set_matrix(path, matrix)


def set_matrix(path: Path, matrix: Sequence[float]) -> Path:
    """Write the display matrix (a, b, c, d) into an mp4 file's first track header."""
    a, b, c, d = (struct.pack(">i", round(value * 65536)) for value in matrix)
    one, zero = struct.pack(">i", 65536), bytes(4)
    written = a + b + zero + c + d + zero
    data = path.read_bytes()
    identity = one + zero + zero + zero + one + zero
    place = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:place] + written + data[place + len(written) :])
    return path


def _video_packets(out, generated):
    stream = out.add_stream(generated.video, rate=generated.fps, options=generated.options)
    stream.width, stream.height = generated.size
    context = stream.codec_context
    formats = [f.name for f in context.codec.video_formats or ()]
    usual = "yuvj420p" if generated.video == "mjpeg" else "yuv420p"
    stream.pix_fmt = generated.pix_fmt or (usual if usual in formats else formats[0])
    context.gop_size = generated.gop
    if generated.bframes is not None:
        context.max_b_frames = generated.bframes
    base = 1 / generated.fps if generated.times is None else Fraction(1, 1000)
    context.time_base = base
    context.bit_rate = 3_000_000
    for n, at in enumerate(generated.frame_times()):
        if at < generated.video_from - 1e-9:
            continue
        frame = av.VideoFrame.from_ndarray(frame_pixels(n, generated.size), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts = round((at + generated.shift) / base)
        frame.time_base = base
        yield at, stream.encode(frame)
    yield generated.seconds + 1, stream.encode(None)


def _audio_packets(out, generated):
    options = {"strict": "experimental"} if generated.audio == "vorbis" else {}
    stream = out.add_stream(generated.audio, rate=generated.rate, options=options)
    context = stream.codec_context
    context.layout = generated.layout
    formats = [f.name for f in context.codec.audio_formats or ()]
    if "fltp" in formats:
        context.format = "fltp"
    else:
        context.format = formats[0]
    wave = waveform(generated.audio_from, generated.seconds, generated.rate)
    channels = context.layout.nb_channels
    resampler = av.AudioResampler(
        format=context.format, layout=generated.layout, rate=generated.rate
    )
    step = 1024
    for place in range(0, len(wave), step):
        data = np.repeat(wave[place : place + step], channels)[None]
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout=generated.layout)
        frame.sample_rate = generated.rate
        frame.time_base = Fraction(1, generated.rate)
        frame.pts = place + round((generated.audio_from + generated.shift) * generated.rate)
        pts = frame.pts
        packets = []
        for piece in resampler.resample(frame):
            piece.pts = pts
            pts += piece.samples
            packets += stream.encode(piece)
        yield generated.audio_from + place / generated.rate, packets
    yield generated.seconds + 1, stream.encode(None)
