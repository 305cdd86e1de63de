"""What a file is said to hold is what can be decoded from it."""

from __future__ import annotations

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.clips.decoding.decode import ClipRequest, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location
from tests.clips.decoding.media_factory import VIDEO, GeneratedVideo, frame_pixels, write
from tests.conftest import shared_media

CONFIG = ClipsConfig(video=VIDEO)


def reason(path) -> Reason:
    result = probe(Location.of(path))
    assert isinstance(result, Reject), result
    (clip,) = decode_clips(Location.of(path), [ClipRequest(0.5, 128)], CONFIG)
    assert isinstance(clip, Reject)
    return result.reason


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "mpg", "avi", "flv", "mov"])
def test_range_and_format(tmp_path, container):
    video = "mpeg2video" if container == "mpg" else "libx264"
    audio = "mp2" if container == "mpg" else "aac" if container != "avi" else "ac3"
    generated = GeneratedVideo(
        video=video, audio=audio, fps=Fraction(30), rate=44_100, layout="stereo"
    )
    info = probe(Location.of(write(tmp_path / f"video.{container}", generated)))
    assert isinstance(info, MediaInfo)
    assert info.start_s == pytest.approx(0, abs=0.15)
    assert info.end_s == pytest.approx(4, abs=0.15)
    assert info.fps == pytest.approx(30, abs=0.1)
    assert (info.width, info.height, info.rotation) == (128, 128, 0)
    assert (info.has_video, info.has_audio) == (True, True)
    assert (info.audio_rate, info.channels) == (44_100, 2)


def test_one_track_only(tmp_path):
    silent = probe(Location.of(write(tmp_path / "silent.mp4", GeneratedVideo(audio=None))))
    assert (silent.has_video, silent.has_audio, silent.audio_rate) == (True, False, 0)
    blind = probe(
        Location.of(write(tmp_path / "blind.mp3", GeneratedVideo(video=None, audio="libmp3lame")))
    )
    assert (blind.has_video, blind.has_audio, blind.width, blind.fps) == (False, True, 0, 0.0)
    (clip,) = decode_clips(Location.of(tmp_path / "silent.mp4"), [ClipRequest(1, 128)], CONFIG)
    assert clip.audio is None
    assert clip.video.shape == (8, 112, 112, 3)
    (clip,) = decode_clips(Location.of(tmp_path / "blind.mp3"), [ClipRequest(1, 128)], CONFIG)
    assert clip.video is None
    assert clip.audio.dtype == np.float32
    assert clip.audio.shape == (32_000,)
    only = ClipRequest(1, 128, video=False)
    (rejected,) = decode_clips(Location.of(tmp_path / "silent.mp4"), [only], CONFIG)
    assert rejected.reason is Reason.NO_STREAMS


def test_end_of_a_truncated_file_is_where_it_was_cut(tmp_path):
    """The header still promises the whole length."""
    generated = GeneratedVideo(seconds=8.0, container={"movflags": "faststart"})
    whole = write(tmp_path / "whole.mp4", generated).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    info = probe(Location.of(path))
    assert 2 < info.end_s < 7
    centre = info.end_s - 0.5
    (clip,) = decode_clips(Location.of(path), [ClipRequest(centre, 128)], CONFIG)
    assert not isinstance(clip, Reject)
    (lost,) = decode_clips(Location.of(path), [ClipRequest(7.8, 128)], CONFIG)
    assert lost.reason is Reason.CORRUPT  # inside what the header promises


def test_length_that_no_header_states(tmp_path):
    """A live recording: Matroska written to a pipe has neither duration nor index."""
    read, write_end = os.pipe()
    path = tmp_path / "live.mkv"
    pid = os.fork()
    if pid == 0:  # the muxer's process: a pipe cannot be sought in, so nothing is filled in later
        os.close(read)
        write(f"pipe:{write_end}", GeneratedVideo(), format="matroska")
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read, "rb") as stream:
        path.write_bytes(stream.read())
    os.waitpid(pid, 0)
    with av.open(str(path)) as container:
        assert container.duration is None
    info = probe(Location.of(path))
    assert info.end_s == pytest.approx(4, abs=0.1)
    (clip,) = decode_clips(Location.of(path), [ClipRequest(3.0, 128)], CONFIG)
    assert not isinstance(clip, Reject)


def test_stamps_that_no_file_of_this_size_can_fill(tmp_path):
    path = tmp_path / "sparse.mkv"
    source = write(tmp_path / "video.mp4", GeneratedVideo(audio=None))
    with av.open(str(source)) as media, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(media.streams.video[0])
        for number, packet in enumerate(p for p in media.demux() if p.size):
            packet.stream = stream
            packet.pts = packet.dts = number * 3000 * packet.time_base.denominator
            out.mux(packet)
    result = probe(Location.of(path))
    assert isinstance(result, Reject)
    assert result.reason is Reason.CORRUPT
    assert "timestamps span" in result.detail


@pytest.mark.parametrize(("video_s", "audio_s"), [(3.0, 0.2), (0.2, 3.0)])
def test_a_track_that_ends_at_once_does_not_cost_the_other(tmp_path, video_s, audio_s):
    path = tmp_path / "short.mkv"
    with (
        av.open(str(write(tmp_path / "video.mp4", GeneratedVideo()))) as media,
        av.open(str(path), "w") as out,
    ):
        streams = {s.index: out.add_stream_from_template(s) for s in media.streams}
        for packet in media.demux():
            length = video_s if packet.stream.type == "video" else audio_s
            if packet.size and packet.pts * packet.time_base < length:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    info = probe(Location.of(path))
    assert (info.has_video, info.has_audio) == (video_s > 1, audio_s > 1)
    assert info.end_s - info.start_s == pytest.approx(3, abs=0.3)


def test_one_damaged_stamp_does_not_lengthen_a_file(tmp_path):
    path = tmp_path / "damaged.ts"
    with (
        av.open(str(write(tmp_path / "video.mp4", GeneratedVideo()))) as media,
        av.open(str(path), "w") as out,
    ):
        streams = {s.index: out.add_stream_from_template(s) for s in media.streams}
        for number, packet in enumerate(media.demux()):
            if packet.size:
                packet.stream = streams[packet.stream_index]
                if number in (90, 240):
                    packet.pts += int(3600 / packet.time_base)
                out.mux(packet)
    with av.open(str(path)) as container:
        assert max(p.pts * p.time_base for p in container.demux() if p.size) > 3600
    info = probe(Location.of(path))
    assert info.end_s == pytest.approx(4, abs=0.2)


def test_a_track_that_begins_after_the_file_was_opened(tmp_path):
    """FLV lists no tracks: libavformat finds a new one among the packets."""
    audio = write(tmp_path / "audio.flv", GeneratedVideo(video=None, seconds=12.0)).read_bytes()
    both = write(tmp_path / "both.flv", GeneratedVideo(seconds=2.0)).read_bytes()
    path = tmp_path / "joined.flv"
    path.write_bytes(audio + both[13:])
    with av.open(str(path)) as container, pytest.raises(IndexError):
        list(container.demux(container.streams.audio[0]))
    info = probe(Location.of(path))
    assert isinstance(info, MediaInfo), info
    assert (info.has_video, info.has_audio) == (False, True)
    assert info.end_s == pytest.approx(12, abs=0.2)
    (clip,) = decode_clips(Location.of(path), [ClipRequest(11.0, 128)], CONFIG)
    assert not isinstance(clip, Reject), clip


def test_clip_outside_the_file(tmp_path):
    source = Location.of(write(tmp_path / "video.mp4", GeneratedVideo()))
    results = decode_clips(source, [ClipRequest(c, 128) for c in (-30, 2, 60)], CONFIG)
    assert [getattr(r, "reason", "ok") for r in results] == [Reason.BAD_CUT, "ok", Reason.BAD_CUT]


def test_rejects(tmp_path):
    def file(name: str, data: bytes):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    assert reason(tmp_path / "none.mp4") is Reason.MISSING
    assert reason(file("empty.mp4", b"")) is Reason.EMPTY_FILE
    assert reason(file("one.mp4", b"x")) is Reason.NOT_MEDIA
    assert reason(file("text.ts", b"export const a: number = 1;\n" * 50)) is Reason.NOT_MEDIA
    assert reason(file("list.m3u8", b"#EXTM3U\n#EXTINF:4,\nfilm.ts\n")) is Reason.NOT_MEDIA
    assert reason(tmp_path) is Reason.UNREADABLE
    video = write(tmp_path / "video.mp4", GeneratedVideo()).read_bytes()
    for name, head in {
        "mp4": video,
        "wav": b"RIFF\x24\x00\x00\x00WAVE",
        "webm": b"\x1a\x45\xdf\xa3",
    }.items():
        damaged = head[:64].ljust(64, b"\xff")  # it begins like media, and then does not go on
        assert reason(file(f"head.{name}", damaged)) in (Reason.CORRUPT, Reason.NO_STREAMS)
    noise = np.random.default_rng(0).bytes(200_000)
    assert reason(file("noise.mp4", noise)) is Reason.NOT_MEDIA


def test_pictures_that_pose_as_video(tmp_path):
    for name, codec in (("image.png", "png"), ("image.jpg", "mjpeg")):
        with av.open(str(tmp_path / name), "w", format="image2", options={"update": "1"}) as out:
            stream = out.add_stream(codec, rate=1)
            stream.width = stream.height = 64
            stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
            frame = av.VideoFrame.from_ndarray(frame_pixels(5, (64, 64)), format="rgb24")
            out.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            out.mux(stream.encode(None))
        assert reason(tmp_path / name) is Reason.STILL_IMAGE
        (tmp_path / f"{name}.mp4").write_bytes((tmp_path / name).read_bytes())
        assert reason(tmp_path / f"{name}.mp4") is Reason.STILL_IMAGE


def test_absurd_sizes(tmp_path):
    with av.open(str(tmp_path / "huge.mov"), "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16_000, 16_000, "monob"
        frame = av.VideoFrame(16_000, 16_000, "monob")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert reason(tmp_path / "huge.mov") is Reason.TOO_LARGE

    generated = GeneratedVideo(video="mpeg4", audio=None, size=(2, 2))
    info = probe(Location.of(write(tmp_path / "tiny.mp4", generated)))
    assert (info.width, info.height) == (2, 2)
    wide = GeneratedVideo(video="ffv1", audio=None, size=(4096, 2), seconds=0.5)
    write(tmp_path / "wide.mkv", wide)
    for name in ("tiny.mp4", "wide.mkv"):
        (clip,) = decode_clips(Location.of(tmp_path / name), [ClipRequest(0.2, 128)], CONFIG)
        assert clip.video.shape == (8, 112, 112, 3)


def test_the_decoders_words_are_about_the_file_at_hand(tmp_path):
    path = write(tmp_path / "video.avi", GeneratedVideo(video="mpeg4", audio=None))
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 4, len(data) // 2, 97):
        data[at] ^= 0xFF
    path.write_bytes(data)
    before, _ = av.logging.get_last_error()
    decode_clips(Location.of(path), [ClipRequest(t / 10, 128) for t in range(40)], CONFIG)
    assert av.logging.get_last_error()[0] > before, "errors that raised nothing"
    (tmp_path / "text.dat").write_text("no media at all " * 100)
    result = probe(Location.of(tmp_path / "text.dat"))
    assert isinstance(result, Reject)
    assert "mpeg4" not in result.detail


@pytest.mark.parametrize("seconds", [0.4, 1.0, 1.5])
def test_short_ogg_is_as_long_as_it_sounds(tmp_path, seconds):
    """One page holds all of it; after a seek libavformat gives its last packet a wrong length."""
    generated = GeneratedVideo(
        video=None, audio="vorbis", layout="stereo", rate=44_100, seconds=seconds
    )
    info = probe(Location.of(write(tmp_path / "word.ogg", generated)))
    assert isinstance(info, MediaInfo), info
    assert info.end_s - info.start_s == pytest.approx(seconds, abs=0.05)


def test_short_ogg_of_the_field():
    info = probe(Location.of(shared_media("field") / "19_short_vorbis.ogg"))
    assert isinstance(info, MediaInfo), info
    assert (info.start_s, info.end_s) == pytest.approx((0, 1), abs=0.01)
