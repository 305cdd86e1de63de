"""Which tracks are encrypted: no key is ever known here, and without one they decode to noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from av.container import Container
from av.packet import Packet
from av.stream import Stream

from pipeline.clips.rejects import Reason, Reject

# Codec tags that stay where a track is protected and its scheme is not told: MP4's (ISO/IEC
# 14496-12, 8.12), those of Apple's FairPlay, and Audible's.
_TAGS = {"encv", "enca", "encs", "enct", "drms", "drmi", "aavd"}
# Stream types of HLS Sample Encryption in transport streams: AAC, AC-3, E-AC-3, H.264.
_TS_TAGS = {"\xcf\0\0\0", "\xc1\0\0\0", "\xc2\0\0\0", "\xdb\0\0\0"}
# What Windows Media writes about itself: header objects of the content encryption, and of the
# extended one, whose licence is elsewhere.
_ASF_OBJECTS = (
    bytes.fromhex("fbb31122 23bd d211 b4b7 00a0c955fc6e"),
    bytes.fromhex("14e68a29 2226 174c b935 dae07ee9289c"),
)
LOOK_BYTES = 1 << 19  # bytes of a file within which `scrambled` looks
_TS_PACKET = 188


def encryption(container: Container, stream: Stream) -> Reject | None:
    """Why a track cannot be decoded, if its header says that it is encrypted."""
    tag = _tag(stream.codec_context)
    if tag in _TAGS:
        return _reject(f"{tag} track")
    if tag in _TS_TAGS and container.format.name == "mpegts":
        return _reject("HLS Sample Encryption")
    if "enc_key_id" in stream.metadata:
        return _reject("Matroska content encryption")
    return None


def _tag(context: Any) -> str:
    """The four characters by which the container names a codec; "" without a decoder."""
    try:
        return context.codec_tag if context is not None else ""
    except UnicodeDecodeError as error:
        # PyAV takes them for ASCII; Wave files and transport streams have numbers.
        return error.object.decode("latin-1")


def reject_encrypted(packets: Sequence[Packet]) -> None:
    """Raise a reject if these packets of one track are encrypted, or become so on the way."""
    for packet in (*packets[:1], *packets[-1:]):
        if reject := packet_encryption(packet):
            raise reject


def packet_encryption(packet: Packet) -> Reject | None:
    """Common Encryption (ISO/IEC 23001-7), which MP4 states with each sample."""
    if not packet.has_sidedata("encryption_info"):
        return None
    scheme = bytes(packet.get_sidedata("encryption_info"))[:4]
    return _reject(f"scheme {scheme.decode('ascii', 'replace')}")


def scrambled(container: Container, stream: Stream, start: bytes) -> Reject | None:
    """Why a track gives no frames, or noise, if the file's first bytes show it to be encrypted."""
    name = container.format.name
    if name == "asf" and any(guid in start for guid in _ASF_OBJECTS):
        return _reject("Windows Media DRM")
    if name == "mpegts" and stream.id in _scrambled_pids(start):
        return _reject("transport stream scrambling")
    return None


def _scrambled_pids(start: bytes) -> set[int]:
    """Streams whose scrambling bits are set (ISO/IEC 13818-1, 2.4.3)."""
    first = next(
        (i for i in range(_TS_PACKET) if start[i : i + 5 * _TS_PACKET : _TS_PACKET] == b"G" * 5), 0
    )
    pids = set()
    for at in range(first, len(start) - 4, _TS_PACKET):
        if start[at] == ord("G") and start[at + 3] & 0xC0:
            pids.add((start[at + 1] & 0x1F) << 8 | start[at + 2])
    return pids


def _reject(how: str) -> Reject:
    return Reject(Reason.UNSUPPORTED, f"encrypted ({how}), and there is no key")
