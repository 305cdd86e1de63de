"""What the NAL units of H.264 and HEVC packets say that libavcodec keeps to itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

_START_CODE = re.compile(rb"\x00\x00\x01")
_SEI = 6  # H.264's unit of supplemental enhancement information (Table 7-1)
_RECOVERY_POINT = 6  # the payload of one that says when pictures are right again (D.1.8)
_SLICES = (1, 5)  # the first of a picture comes behind all that describes it


def recovery_frames(packet: bytes) -> int:
    """Frames after an H.264 packet until pictures are right if decoding starts there.

    0 at true keyframes. Streams with periodic intra refresh have no others behind the first.
    """
    for unit in _units(packet):
        kind = unit[0] & 0x1F
        if kind in _SLICES:
            break
        if kind == _SEI:
            for payload, content in _payloads(unit[1:]):
                if payload == _RECOVERY_POINT:
                    return _exp_golomb(content)
    return 0


def is_layered(packet: bytes) -> bool:
    """Whether an HEVC packet is, or may be, of a temporal layer above the base.

    There "not referred to" holds within the layer only (H.265 7.4.2.2). Reads the NAL unit
    headers of length-prefixed packets; start codes (transport streams) are not searched.
    """
    place = 0
    while place + 6 <= len(packet):
        length = int.from_bytes(packet[place : place + 4], "big")
        if length < 2 or place + 4 + length > len(packet):
            return True
        kind, layer = (packet[place + 4] >> 1) & 0x3F, packet[place + 5] & 0x07
        if kind < 32 and layer != 1:
            return True
        place += 4 + length
    return False


def _units(packet: bytes) -> Iterator[bytes]:
    """NAL units of at least a byte, behind their lengths or start codes."""
    if packet[:3] == b"\0\0\x01" or packet[:4] == b"\0\0\0\x01":
        starts = [match.end() for match in _START_CODE.finditer(packet)]
        for start, stop in zip(starts, [*starts[1:], len(packet)]):
            if packet[start:stop]:
                yield packet[start:stop]
        return
    place = 0
    while place + 4 < len(packet):
        length = int.from_bytes(packet[place : place + 4], "big")
        unit = packet[place + 4 : place + 4 + length]
        if not unit:
            return
        yield unit
        place += 4 + length


def _payloads(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the payloads of an SEI unit (7.3.2.3.1)."""
    place = 0
    while place + 2 < len(data):
        numbers = []
        for _ in range(2):
            number = 0
            while place < len(data) and data[place] == 0xFF:
                number, place = number + 255, place + 1
            number, place = number + (data[place] if place < len(data) else 0), place + 1
            numbers.append(number)
        kind, size = numbers
        yield kind, data[place : place + size]
        place += size


def _exp_golomb(data: bytes) -> int:
    """The unsigned number with which data begin (9.1)."""
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = len(bits) - len(bits.lstrip("0"))
    number = bits[zeros : 2 * zeros + 1]
    return int(number, 2) - 1 if len(number) == zeros + 1 else 0
