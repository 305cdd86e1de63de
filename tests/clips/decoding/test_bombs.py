"""Frames that claim to be far larger than their file says: a reject, in bounded memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import psutil
import pytest

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, frame_pixels

CONFIG = ClipsConfig(video=VIDEO)
HUGE = struct.pack(">HH", 65_535, 65_535)
MOST_KB = 400_000  # that a decoding process may have held at any time


def jpeg(data: bytes) -> bytes:
    """Height and width follow the length and the precision of the frame's header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + HUGE + data[at + 4 :]


def png(data: bytes) -> bytes:
    """Width and height begin the header, which has a checksum."""
    at = data.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", 65_535, 65_535) + data[at + 12 : at + 17]
    return data[:at] + header + struct.pack(">I", zlib.crc32(header)) + data[at + 21 :]


def gif(data: bytes) -> bytes:
    """The screen, and the picture on it."""
    huge = struct.pack("<HH", 65_535, 65_535)
    at = data.index(b",", 13) + 5
    return data[:6] + huge + data[10:at] + huge + data[at + 4 :]


BOMBS: dict[str, tuple[str, str, str, Callable[[bytes], bytes]]] = {
    "jpeg": ("avi", "mjpeg", "yuvj420p", jpeg),
    "png": ("mov", "png", "rgb24", png),
    "gif": ("gif", "gif", "rgb8", gif),
}


def bomb(path: Path, codec: str, pixels: str, grow: Callable[[bytes], bytes]) -> Path:
    """A second of video; its packets are huge from the third on, all where there is one header."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = pixels
        packets = []
        for at in range(25):
            frame = av.VideoFrame.from_ndarray(frame_pixels(at, (64, 64)), format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts = at
            packets += stream.encode(frame)
        for at, packet in enumerate([*packets, *stream.encode(None)]):
            if at >= 2 and codec != "gif":
                small, packet = packet, av.Packet(grow(bytes(packet)))
                packet.pts, packet.dts, packet.time_base = small.pts, small.dts, small.time_base
                packet.stream, packet.is_keyframe = stream, True
            out.mux(packet)
    if codec == "gif":
        path.write_bytes(grow(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", BOMBS)
def test_a_frame_that_claims_to_be_huge_is_a_reject(name: str, tmp_path: Path) -> None:
    suffix, codec, pixels, grow = BOMBS[name]
    source = Location.of(bomb(tmp_path / f"bomb.{suffix}", codec, pixels, grow))
    isolation.close()
    try:
        why: object = probe_isolated(source)
        if not isinstance(why, Reject):
            (why,) = decode_clips_isolated(source, [ClipRequest(0.5, 128, audio=False)], CONFIG)
        if isinstance(why, DecodedClip):
            why = why.lost["video"]
        assert isinstance(why, Reject)
        assert why.reason in (Reason.TOO_LARGE, Reason.CORRUPT, Reason.UNSUPPORTED), why
        assert "\n" not in why.detail
        (child,) = [p for p in psutil.Process().children() if "child" in " ".join(p.cmdline())]
        status = Path(f"/proc/{child.pid}/status").read_text()
        (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        assert int(peak) < MOST_KB
    finally:
        isolation.close()
