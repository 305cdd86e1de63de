"""Files that are not media, or only parts of media, are told so, and nothing else is opened."""

from __future__ import annotations

import ctypes
import gzip
import os
import select
import socket
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.rejects import Reason, Reject
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, frame_pixels, write
from tests.conftest import shared_media

_IN_OPEN = 0x20  # of <sys/inotify.h>


def rejected(path: Path) -> Reject:
    result = probe(Location.of(path))
    assert isinstance(result, Reject), (path.name, result)
    return result


@contextmanager
def untouched(*folders: Path) -> Iterator[None]:
    """Fails if anything in these folders is opened meanwhile, by whatever process."""
    if sys.platform != "linux":
        pytest.skip("inotify is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for folder in folders:
            assert libc.inotify_add_watch(handle, os.fsencode(folder), _IN_OPEN) >= 0
        yield
        with pytest.raises(BlockingIOError):
            pytest.fail(f"opened: {os.read(handle, 4096)!r}")
    finally:
        os.close(handle)


def playlists(folder: Path, secret: Path, port: int) -> list[Path]:
    """Files of every kind that name others: in the folder `secret`, and on this host's port."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n{}#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n"
    concat, url = "ffconcat version 1.0\nfile {}\n", f"http://127.0.0.1:{port}/film"
    relative = f"{secret.name}/film"
    texts = {
        "absolute.m3u8": hls.format("", f"file://{secret}/film.ts"),
        "relative.m3u8": hls.format("", f"{relative}.ts"),
        "remote.m3u8": hls.format("", f"{url}.ts"),
        "key.m3u8": hls.format(
            f'#EXT-X-KEY:METHOD=AES-128,URI="file://{secret}/film.ts"\n', f"{relative}.ts"
        ),
        "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}.m3u8\n",
        "posing.ts": hls.format("", f"{relative}.ts"),
        "list.ffconcat": concat.format(f"{relative}.ts"),
        "posing.mp4": concat.format(f"{relative}.ts"),
        "remote.txt": concat.format(f"'{url}.ts'"),
        "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "subtitles.idx").write_text("# VobSub index file, v7 (do not modify this line!)\n")
    (folder / "subtitles.sub").symlink_to(secret / "film.ts")
    (folder / "list.mpd").write_text(
        f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">{relative}.ts</MPD>\n'
    )
    texts |= {"subtitles.idx": "", "list.mpd": ""}
    return [folder / name for name in texts]


def test_playlists_open_nothing(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    write(secret / "film.ts", GeneratedVideo(seconds=1.0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        lists = playlists(tmp_path, secret, server.getsockname()[1])
        isolation.close()
        for path in lists:
            with untouched(secret):
                result = isolation.probe_isolated(Location.of(path), 5.0)
            assert isinstance(result, Reject), path.name
            assert result.reason is Reason.NOT_MEDIA, (path.name, result)
            assert "names other files" in result.detail, (path.name, result)
        assert not select.select([server], [], [], 0)[0], "something connected"


def test_playlists_of_the_field():
    folder = shared_media("field") / "14_playlists"
    with untouched(folder / "secret"):
        for path in sorted(folder.glob("*.*")):
            assert rejected(path).reason is Reason.NOT_MEDIA, path.name


@pytest.mark.parametrize(
    "name",
    [
        "concat:one.gif|two.gif",
        "pipe:0",
        "-i",
        "data:video,AAAA",
        "http:host",
        "subfile,,start,0,end,9,,:one.gif",
        "file:one.gif",
        "%03d.gif",
        "100%.gif",
        "%*.gif",
        "a?b#c[1].gif",
    ],
)
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    """Even one that libavformat would take for a protocol, an option or a pattern."""
    monkeypatch.chdir(tmp_path)
    for other in ("one.gif", "two.gif", "001.gif"):
        Path(other).write_bytes(b"not this one")
    video = GeneratedVideo(video="gif", audio=None, seconds=1.0)
    path = write(tmp_path / "film", video, format="gif").rename(tmp_path / name)
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert info.end_s == pytest.approx(1, abs=0.1)


def test_archives(tmp_path):
    audio = write(tmp_path / "audio.mp3", GeneratedVideo(video=None, audio="libmp3lame"))
    with tarfile.open(tmp_path / "audio.tar", "w") as archive:
        for copy in range(3):
            archive.add(audio, f"{copy}.mp3")
    with gzip.open(tmp_path / "audio.gz", "wb") as packed:
        packed.write(audio.read_bytes())
    for name in ("audio.tar", "audio.gz"):
        reject = rejected(tmp_path / name)
        assert reject.reason is Reason.NOT_MEDIA
        assert "an archive" in reject.detail


@pytest.mark.parametrize(
    ("format", "codec", "called"),
    [
        ("h264", "libx264", "H.264"),
        ("hevc", "libx265", "HEVC"),
        ("m4v", "mpeg4", "MPEG-4"),
        ("obu", "libsvtav1", "AV1"),
        ("mjpeg", "mjpeg", "Motion JPEG"),
    ],
)
def test_raw_streams_have_no_clock(tmp_path, format, codec, called):
    generated = GeneratedVideo(video=codec, audio=None, seconds=1.0)
    reject = rejected(write(tmp_path / "film.raw", generated, format=format))
    assert reject.reason is Reason.UNSUPPORTED
    assert f"raw {called} stream without a clock" in reject.detail


def test_raw_mpeg_states_its_rate(tmp_path):
    generated = GeneratedVideo(video="mpeg2video", audio=None, bframes=0)
    info = probe(Location.of(write(tmp_path / "film.m2v", generated, format="mpeg2video")))
    assert isinstance(info, MediaInfo)
    assert info.end_s == pytest.approx(4, abs=0.1)


def test_raw_stream_of_the_field():
    reject = rejected(shared_media("field") / "12_raw.h264")
    assert reject.reason is Reason.UNSUPPORTED
    assert "without a clock" in reject.detail


@pytest.mark.parametrize(
    "options", [{}, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}]
)
@pytest.mark.parametrize("styled", [False, True])
def test_fragments_without_their_init_segment(tmp_path, options, styled):
    options = options or {"movflags": "dash+frag_keyframe+empty_moov"}
    whole = write(tmp_path / "film.mp4", GeneratedVideo(container=options)).read_bytes()
    piece = whole[whole.index(b"moof") - 4 :]
    style = b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix" if styled else b""
    path = tmp_path / "piece.m4s"
    path.write_bytes(style + piece)
    reject = rejected(path)
    assert reject.reason is Reason.UNSUPPORTED
    assert "without its init segment" in reject.detail
    joined = tmp_path / "joined.mp4"
    joined.write_bytes(whole[: -len(piece)] + style + piece)
    assert isinstance(probe(Location.of(joined)), MediaInfo)


def test_webm_clusters_without_their_header(tmp_path):
    generated = GeneratedVideo(video="libvpx", audio="libopus")
    whole = write(tmp_path / "film.webm", generated).read_bytes()
    path = tmp_path / "piece.webm"
    path.write_bytes(whole[whole.index(b"\x1f\x43\xb6\x75") :])
    reject = rejected(path)
    assert reject.reason is Reason.UNSUPPORTED
    assert "without its init segment" in reject.detail


def test_subtitles_are_named(tmp_path):
    path = tmp_path / "film.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n\n" * 5)
    reject = rejected(path)
    assert reject.reason is Reason.NOT_MEDIA
    assert reject.detail == "a srt file"


def test_photographs_that_no_demuxer_knows(tmp_path):
    heads = (b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0", b"FOVb\0\0\2\0")
    for head in heads:
        path = tmp_path / "photo.raw"
        path.write_bytes(head + os.urandom(1000))
        assert rejected(path).reason is Reason.STILL_IMAGE


def test_animated_webp_is_not_called_a_photograph(tmp_path):
    path = tmp_path / "moving.webp"
    with av.open(str(path), "w", format="webp", options={"loop": "0"}) as out:
        stream = out.add_stream("libwebp_anim", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(frame_pixels(number, (64, 64)), format="rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    reject = rejected(path)
    assert reject.reason is Reason.UNSUPPORTED
    assert "animated" in reject.detail
