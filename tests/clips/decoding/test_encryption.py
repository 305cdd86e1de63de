"""Encrypted tracks are rejected, never decoded to noise, and cost no clear track beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.shrink import shrink
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, write
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VIDEO)
CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def assert_encrypted(path: Path, how: str) -> None:
    source = Location.of(path)
    stored = shrink(source, 0.5, 1.5, CONFIG, "jpeg")
    for result in (probe(source), *decode_clips(source, [ClipRequest(1.0, 128)], CONFIG), stored):
        assert isinstance(result, Reject), result
        assert result.reason is Reason.UNSUPPORTED, result
        assert f"encrypted ({how}" in result.detail, result


def assert_only(path: Path, kept: str, how: str) -> None:
    """One track is clear, and the other one is reported as lost."""
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert (info.has_video, info.has_audio) == (kept == "video", kept == "audio")
    ((modality, reject),) = info.lost
    assert {modality, kept} == {"video", "audio"}
    assert reject.reason is Reason.UNSUPPORTED
    assert f"encrypted ({how}" in reject.detail
    (clip,) = decode_clips(Location.of(path), [ClipRequest(1.0, 128)], CONFIG)
    assert isinstance(clip, DecodedClip), clip
    assert (clip.video is not None, clip.audio is not None) == (info.has_video, info.has_audio)


@pytest.mark.parametrize("options", [{}, FRAGMENTED])
def test_common_encryption(tmp_path, options):
    for name, film in {
        "both.mp4": GeneratedVideo(container=CENC | options),
        "sound.m4a": GeneratedVideo(container=CENC | options, video=None),
    }.items():
        assert_encrypted(write(tmp_path / name, film, format="mp4"), "scheme cenc")


def test_clear_at_first(tmp_path):
    """Streaming services leave the first seconds clear; it is the samples that say so."""
    path = write(tmp_path / "film.mp4", GeneratedVideo(seconds=8.0, gop=25, container=FRAGMENTED))
    clear = path.read_bytes()
    locked = write(
        tmp_path / "locked.mp4", GeneratedVideo(seconds=8.0, gop=25, container=CENC | FRAGMENTED)
    ).read_bytes()
    first = locked.index(b"moof") - 4
    starts = [at - 4 for at in range(len(locked)) if locked[at : at + 4] == b"moof"]
    clear_starts = [at - 4 for at in range(len(clear)) if clear[at : at + 4] == b"moof"]
    assert len(starts) == len(clear_starts) > 4
    joined = locked[:first] + clear[clear_starts[0] : clear_starts[3]] + locked[starts[3] :]
    path.write_bytes(joined)
    info = probe(Location.of(path))
    assert isinstance(info, Reject), info
    assert "scheme cenc" in info.detail
    (late,) = decode_clips(Location.of(path), [ClipRequest(6.0, 128)], CONFIG)
    assert isinstance(late, Reject), late
    assert late.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("tag", ["enca", "drms", "aavd"])
def test_protected_sound_of_unknown_scheme(tmp_path, tag):
    sound = write(tmp_path / "sound.m4a", GeneratedVideo(video=None))
    sound.write_bytes(sound.read_bytes().replace(b"mp4a", tag.encode(), 1))
    assert_encrypted(sound, f"{tag} track")
    film = write(tmp_path / "film.mp4", GeneratedVideo())
    film.write_bytes(film.read_bytes().replace(b"mp4a", tag.encode(), 1))
    assert_only(film, "video", f"{tag} track")


def _element(name: str, content: bytes) -> bytes:
    """An EBML element with a size of four bytes."""
    return bytes.fromhex(name) + (len(content) | 1 << 28).to_bytes(4, "big") + content


def _read(data: bytes, at: int) -> tuple[int, int, int]:
    """Where the element at this place has its size, its content, and its end."""
    size_at = at + 9 - data[at].bit_length()
    length = 9 - data[size_at].bit_length()
    size = int.from_bytes(data[size_at : size_at + length], "big") & (1 << 7 * length) - 1
    return size_at, size_at + length, size_at + length + size


_ALGORITHM_AND_KEY = _element("47e1", b"\5") + _element("47e2", bytes(range(16)))
_AES = _element("47e7", _element("47e8", b"\1"))
_ENCODING = _element("5033", b"\1") + _element("5035", _ALGORITHM_AND_KEY + _AES)


def protect(path: Path, number: int) -> Path:
    """State in a Matroska file, written live, that its track of this number is encrypted."""
    data = path.read_bytes()
    tracks = data.rindex(bytes.fromhex("1654ae6b"))
    _, at, end = _read(data, tracks)
    entries = []
    while at < end:
        _, content, after = _read(data, at)
        entries.append(data[content:after] if data[at] == 0xAE else b"")
        at = after
    entries = [entry for entry in entries if entry]
    entries[number] += _element("6d80", _element("6240", _ENCODING))
    changed = _element("1654ae6b", b"".join(_element("ae", entry) for entry in entries))
    path.write_bytes(data[:tracks] + changed + data[end:])
    return path


@pytest.mark.parametrize(("number", "kept"), [(0, "audio"), (1, "video")])
def test_matroska(tmp_path, number, kept):
    film = GeneratedVideo(video="libvpx", audio="libopus", container={"live": "1"})
    path = protect(write(tmp_path / "film.webm", film), number)
    assert_only(path, kept, "Matroska content encryption")
    assert_encrypted(protect(path, 1 - number), "Matroska content encryption")


def _packets(data: bytearray, pids: set[int]) -> list[int]:
    """Where the packets of these streams begin in a transport stream."""
    places = range(0, len(data), 188)
    return [at for at in places if (data[at + 1] & 0x1F) << 8 | data[at + 2] in pids]


@pytest.mark.parametrize(("pids", "kept"), [({256, 257}, ""), ({256}, "audio"), ({257}, "video")])
def test_scrambled_transport_streams(tmp_path, pids, kept):
    path = write(tmp_path / "film.ts", GeneratedVideo(audio="mp2"))
    data = bytearray(path.read_bytes())
    for at in _packets(data, pids):
        data[at + 3] |= 0x80
        payload = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
        for place in range(payload, at + 188):
            data[place] = (data[place] * 73 + place * 31) & 0xFF
    path.write_bytes(data)
    if kept:
        assert_only(path, kept, "transport stream scrambling")
    else:
        info = probe(Location.of(path))
        assert isinstance(info, Reject)
        assert info.reason is Reason.UNSUPPORTED
        assert "transport stream scrambling" in info.detail


def test_windows_media(tmp_path):
    """The object of the extended content encryption in place of the codec list."""
    path = write(tmp_path / "film.wmv", GeneratedVideo(video="wmv2", audio="ac3"), format="asf")
    codec_list = bytes.fromhex("4052d1861d31d011a3a400a0c90348f6")
    locked = bytes.fromhex("14e68a292226174cb935dae07ee9289c")
    assert codec_list in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(codec_list, locked))
    info = probe(Location.of(path))
    assert isinstance(info, Reject), info
    assert info.reason is Reason.UNSUPPORTED
    assert "Windows Media DRM" in info.detail


def test_encrypted_film_of_the_field():
    assert_encrypted(shared_media("field") / "09_encrypted_h264_aac.mp4", "scheme cenc")


def _crc(data: bytes) -> bytes:
    """CRC-32 of MPEG-2 systems (ISO/IEC 13818-1, annex A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)
            crc &= 0xFFFFFFFF
    return crc.to_bytes(4, "big")


def test_sample_encryption_of_hls(tmp_path):
    """Pieces of a stream whose playlist names the key say so by their stream types."""
    path = write(tmp_path / "film.ts", GeneratedVideo())
    data = bytearray(path.read_bytes())
    table = 4096  # the programme map's stream, as libavformat numbers it
    for at in _packets(data, {table}):
        begin = at + 5
        end = begin + 3 + (int.from_bytes(data[begin + 1 : begin + 3], "big") & 0xFFF) - 4
        section = (
            data[begin:end].replace(b"\x1b\xe1", b"\xdb\xe1").replace(b"\x0f\xe1", b"\xcf\xe1")
        )
        data[begin : end + 4] = section + _crc(section)
    path.write_bytes(data)
    assert_encrypted(path, "HLS Sample Encryption")


def test_stream_types_that_are_no_text(tmp_path):
    """AC-3 in transport streams has the type 0x81."""
    path = write(tmp_path / "film.ts", GeneratedVideo(audio="ac3"))
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert (info.has_video, info.has_audio, info.lost) == (True, True, ())
