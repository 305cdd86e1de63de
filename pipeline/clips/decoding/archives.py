"""Archives, which libavformat would take for the first media file that lies in them."""

from __future__ import annotations

import re

from pipeline.clips.rejects import Reason, Reject

# How archives and compressed files begin.
_BEGINNINGS = {
    "zip": rb"PK(\x03\x04|\x05\x06|\x07\x08)",
    "gzip": rb"\x1f\x8b\x08",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "zstd": rb"\x28\xb5\x2f\xfd",
    "lz4": rb"\x04\x22\x4d\x18",
    "7z": rb"7z\xbc\xaf\x27\x1c",
    "rar": rb"Rar!\x1a\x07",
    "cpio": rb"07070[127]",
    "ar": rb"!<arch>\n",
    "cab": rb"MSCF\x00\x00\x00\x00",
}
_TAR_MAGIC = slice(257, 262)  # POSIX and GNU; the older form has only a checksum
_TAR_SUM = slice(148, 156)


def refuse_archive(head: bytes) -> None:
    """Raises Reject if a file that begins with these 512 bytes is an archive."""
    kind = next((name for name, begin in _BEGINNINGS.items() if re.match(begin, head)), None)
    if kind is None and _is_tar(head):
        kind = "tar"
    if kind is not None:
        what = f"an archive ({kind}), not a media file; unpack it and index the files in it"
        raise Reject(Reason.NOT_MEDIA, what)


def _is_tar(head: bytes) -> bool:
    if len(head) < 512 or not head[0]:
        return False
    if head[_TAR_MAGIC] == b"ustar":
        return True
    digits = head[_TAR_SUM].strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]{4,7}", digits):
        return False
    blank = head[: _TAR_SUM.start] + b" " * 8 + head[_TAR_SUM.stop :]
    return int(digits, 8) == sum(blank)
