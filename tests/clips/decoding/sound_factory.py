"""Files whose sound says which channel, track, programme and instant it is: tones and levels."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from tests.clips.decoding.media_factory import frame_pixels


def tone(hertz: float, level: float, seconds: float, rate: int) -> np.ndarray:
    """Float32 [samples]."""
    at = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def level_of(wave: np.ndarray, hertz: float, rate: int = 16_000) -> float:
    """Amplitude of a tone in the middle of a wave, as `tone` takes it."""
    middle = wave[len(wave) // 4 : -(len(wave) // 4)].astype(np.float64)
    phase = 2 * np.pi * hertz * np.arange(len(middle)) / rate
    fit = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    return float(np.hypot(*np.linalg.lstsq(fit, middle, rcond=None)[0]))


def write_sound(
    path: Path, channels: np.ndarray, codec: str, rate: int, layout: str, **options: str
) -> Path:
    """Encode float [channels, samples] as the only track of a file."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options={"strict": "experimental"} | options)
        _encode(out, stream, channels, rate, layout)
    return path


def write_wav(path: Path, channels: np.ndarray, rate: int) -> Path:
    """16-bit samples of any number of channels that have no places."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(len(channels))
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.round(channels.T * 32767).astype("<i2").tobytes())
    return path


def write_tracks(
    path: Path, tones: Sequence[tuple[float, Disposition, str]], sides: Sequence[int] = ()
) -> Path:
    """A video track for each side in pixels, and an audio track for each (hertz, disposition,
    layout), of 4 s.
    """
    rate, seconds = 48_000, 4.0
    with av.open(str(path), "w") as out:
        videos = []
        for side in sides:
            video = out.add_stream("mpeg2video", rate=25)
            video.width = video.height = side
            video.pix_fmt = "yuv420p"
            videos.append(video)
        audios = []
        for _, disposition, layout in tones:
            audio = out.add_stream("ac3", rate=rate)
            audio.codec_context.layout = layout
            audio.codec_context.format = "fltp"
            audio.disposition = disposition
            audios.append(audio)
        for number in range(round(seconds * 25)):
            for video, side in zip(videos, sides):
                frame = av.VideoFrame.from_ndarray(frame_pixels(number, (side, side)), "rgb24")
                frame = frame.reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                out.mux(video.encode(frame))
            for audio, (hertz, _, layout) in zip(audios, tones):
                sound = tone(hertz, 0.5, seconds, rate)[number * 1920 : (number + 1) * 1920]
                count = av.AudioLayout(layout).nb_channels
                part = np.repeat(sound[None], count, axis=0)
                frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
                frame.sample_rate, frame.pts = rate, number * 1920
                out.mux(audio.encode(frame))
        for stream in [*videos, *audios]:
            out.mux(stream.encode(None))
    return path


def positional(path: Path, labels: Sequence[int]) -> Path:
    """Give the only track of a QuickTime file of PCM a list of channels, one label each."""
    data = bytearray(path.read_bytes())
    at = data.index(b"chan") - 4
    old = int.from_bytes(data[at : at + 4], "big")
    channels = b"".join(struct.pack(">II12x", label, 0) for label in labels)
    body = b"chan" + struct.pack(">IIII", 0, 0, 0, len(labels)) + channels
    new = struct.pack(">I", 4 + len(body)) + body
    grown = len(new) - old
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"sowt"):
        place = data.rindex(box, 0, at) - 4
        size = int.from_bytes(data[place : place + 4], "big")
        data[place : place + 4] = (size + grown).to_bytes(4, "big")
    data[at : at + old] = new
    path.write_bytes(data)
    return path


def split_programs(path: Path, programs: Sequence[Sequence[int]]) -> Path:
    """Rewrite a transport stream's tables so that its tracks, by index, form several programmes."""
    packets = [bytearray(p) for p in _packets(path.read_bytes())]
    table = next(p for p in packets if _number(p) == 0x1000)
    begin = 5 + table[4]
    length = (table[begin + 1] & 15) << 8 | table[begin + 2]
    section = bytes(table[begin : begin + 3 + length - 4])
    skip = 12 + ((section[10] & 15) << 8 | section[11])
    entries = []
    while skip < len(section):
        size = 5 + ((section[skip + 3] & 15) << 8 | section[skip + 4])
        entries.append(section[skip : skip + size])
        skip += size
    tables = []
    association = bytearray()
    for number, tracks in enumerate(programs, 1):
        association += struct.pack(">HH", number, 0xE000 | (0x1000 + number))
        clock = entries[tracks[0]][1:3]
        body = struct.pack(">HBBB", number, 0xC1, 0, 0) + clock + b"\xf0\x00"
        tables.append((0x1000 + number, 2, body + b"".join(entries[t] for t in tracks)))
    tables.insert(0, (0, 0, struct.pack(">HBBB", 1, 0xC1, 0, 0) + bytes(association)))
    out = bytearray()
    count = 0
    for packet in packets:
        if _number(packet) == 0:
            for pid, kind, body in tables:
                out += _table_packet(pid, kind, body, count)
            count += 1
        elif _number(packet) not in (0x11, 0x1000):
            out += packet
    path.write_bytes(out)
    return path


def _encode(out, stream, channels: np.ndarray, rate: int, layout: str) -> None:
    context = stream.codec_context
    context.layout = layout
    context.format = (context.codec.audio_formats or [av.AudioFormat("s16")])[0].name
    packed = np.ascontiguousarray(channels.T.reshape(1, -1), np.float32)
    frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    for part in (frame, None):
        out.mux(stream.encode(part))


def _packets(data: bytes) -> list[bytes]:
    return [data[at : at + 188] for at in range(0, len(data) - 187, 188)]


def _number(packet: bytes | bytearray) -> int:
    return (packet[1] & 31) << 8 | packet[2]


def _table_packet(pid: int, kind: int, body: bytes, count: int) -> bytes:
    section = struct.pack(">BH", kind, 0xB000 | (len(body) + 4)) + body
    section += _checksum(section).to_bytes(4, "big")
    head = struct.pack(">BHBB", 0x47, 0x4000 | pid, 0x10 | count & 15, 0)
    return (head + section).ljust(188, b"\xff")


def _checksum(data: bytes) -> int:
    """CRC-32 of MPEG (ISO/IEC 13818-1, annex A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
    return value
