"""One open media file: its container, the two tracks that matter, and its presentation clock.

Media time is the container's presentation clock in seconds. Transport and program streams start
their clock anywhere (a recording may begin at 38,000 s), so there it counts from the file's first
timestamp, as ``ffmpeg -ss`` does; everywhere else timestamps are taken as they are.
"""

from __future__ import annotations

import errno
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import av
import av.error
from av.audio.stream import AudioStream
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from pipeline.clips.decoding.ranges import Blocks
from pipeline.clips.decoding.reasons import explain
from pipeline.clips.rejects import Reason, Reject
from pipeline.storage import Location

# A file, or the whole of one in memory.
Source = Location | bytes
# A picture beyond this is absurd for training and needs gigabytes in a decoder with references.
MAX_PIXELS = 8192 * 8192
# How files of the common formats begin: MP4 and QuickTime, Matroska, AVI and WAV, Ogg, FLAC, MP3
# with tags, FLV, Windows Media, MPEG program and video streams.
_HEAD = 16
_MEDIA_HEAD = re.compile(
    rb"....(ftyp|moov|mdat|wide|skip|free)|\x1a\x45\xdf\xa3|(RIFF|RIFX)....(AVI |WAVE)|OggS|fLaC"
    rb"|ID3|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\x00\x00\x01[\xba\xb3]",
    re.DOTALL,
)
# Damaged stretches after which the rest of a file is not read.
_MAX_FAULTS = 100
# Formats whose clock starts anywhere.
_FLOATING_CLOCKS = {"mpegts", "mpeg", "vob"}
# Playlists and scripts would open other files or hosts than the one that was named; subtitles and
# metadata are text that a demuxer happens to know.
_NOT_OURS = {"hls", "concat", "dash", "imf", "sdp", "rtsp", "webm_dash_manifest", "ffmetadata"} | {
    *("srt", "ass", "webvtt", "tty", "microdvd", "subviewer", "sami", "lrc", "stl")
}


av.logging.set_level(av.logging.PANIC)


def _forget_logged_errors() -> None:
    """PyAV adds the last line that FFmpeg logged as an error since the exception before to an
    exception's text; without this it may be a line about another file."""
    with suppress(av.error.FFmpegError):
        av.error.err_check(-errno.EINVAL)


class Media:
    """An open file. Not thread-safe; made and closed by `opened`.

    Attributes:
        container: libavformat's view of it.
        video: the picture track to use (cover art excluded), or None.
        audio: the sound track to use, or None.
        floating: whether it is a transport or program stream: no index, and any first timestamp.
        origin_s: timestamp, in seconds, of media time 0.
    """

    container: InputContainer
    video: VideoStream | None
    audio: AudioStream | None
    floating: bool
    origin_s: float

    def __init__(self, source: Source, timeout_s: float, lean: bool, decoder: str) -> None:
        self._source = source
        self._lean = lean
        self._decoder = decoder
        self._timeout_s = timeout_s
        self._handle: Blocks | None = None
        self._head = b""

    def load(self) -> None:
        """Open, choose the tracks, and set the decoders to one thread.

        Raises:
            Reject: nothing in it can be used.
            Exception: whatever storage or libavformat reports; see `explain`.
        """
        _forget_logged_errors()
        if isinstance(self._source, bytes):
            self._head = self._source[:_HEAD]
            place: Any = io.BytesIO(self._source)
        elif self._source.is_local:
            with open(self._source.uri, "rb") as stream:  # the system's words for what is wrong
                self._head = stream.read(_HEAD)
            if not self._head:
                raise Reject(Reason.EMPTY_FILE)
            place = f"file:{self._source.uri}"
        else:
            place = self._handle = Blocks(self._source)
            self._head = self._handle.read(_HEAD)
            self._handle.seek(0)
        self.container = av.open(
            place,
            mode="r",
            timeout=(self._timeout_s, self._timeout_s) if isinstance(place, str) else None,
            metadata_errors="replace",
            buffer_size=1 << 16,
            hwaccel=hardware() if self._decoder == "cuda" else None,
            options={"protocol_whitelist": "file"} | (_lean(self._head) if self._lean else {}),
        )
        self._choose()

    def _choose(self) -> None:
        container = self.container
        name = container.format.name
        if set(name.split(",")) & _NOT_OURS:
            raise Reject(Reason.NOT_MEDIA, f"a {name} file")
        if name.endswith("_pipe") or name in ("image2", "ico"):
            raise Reject(Reason.STILL_IMAGE, f"a {name.removesuffix('_pipe')} file")
        pictures = [s for s in container.streams.video if not _is_cover(s)]
        sounds = list(container.streams.audio)
        video = max(pictures, key=_rank_picture, default=None)
        audio = max(sounds, key=_rank_sound, default=None)
        tracks = [s for s in (video, audio) if s is not None]
        usable = [s for s in tracks if s.codec_context is not None]
        if not usable:
            if tracks:
                kinds = " and ".join(s.type for s in tracks)
                raise Reject(Reason.UNSUPPORTED, f"no decoder for its {kinds}")
            if container.streams.video:
                raise Reject(Reason.STILL_IMAGE, "cover art and no sound")
            raise Reject(Reason.NO_STREAMS)
        self.video = video if video in usable else None
        self.audio = audio if audio in usable else None
        for stream in container.streams:
            if stream not in usable:
                stream.discard = av.stream.Discard.all
        # Fractions are exact, and a fifth of the time that a clip takes.
        self._tick_s = {s.index: float(s.time_base or 1) for s in usable}
        for stream in usable:
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
        if self.video is not None:
            if self.video.codec_context.width * self.video.codec_context.height > MAX_PIXELS:
                size = f"{self.video.codec_context.width}×{self.video.codec_context.height}"
                raise Reject(Reason.TOO_LARGE, f"{size} pixels")
            self.video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self.floating = bool(set(name.split(",")) & _FLOATING_CLOCKS)
        self.origin_s = (container.start_time or 0) / av.time_base if self.floating else 0.0

        if self.video is not None and _needs_first_packet(self.video):
            with suppress(av.error.FFmpegError):
                next(container.demux(self.video)).decode()

    def __enter__(self) -> Media:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reopen(self) -> None:
        """Back to the first packet, for files in which seeking fails."""
        self.close()
        self.load()

    def close(self) -> None:
        if hasattr(self, "container"):
            self.container.close()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    @property
    def unopenable(self) -> Reason:
        """Why libavformat made nothing of it."""
        return Reason.CORRUPT if _MEDIA_HEAD.match(self._head) else Reason.NOT_MEDIA

    def packets(self, tracks: Sequence[Stream]) -> Iterator[Packet]:
        """Packets of these tracks from here on, across damaged stretches, as a player reads.

        Raises:
            Reject: TIMEOUT, where storage does not answer.
        """
        faults = 0
        while faults < _MAX_FAULTS:
            try:
                for packet in self.container.demux(list(tracks)):
                    if packet.size:
                        yield packet
                return
            except av.error.ExitError as error:
                raise Reject(Reason.TIMEOUT, "reading packets") from error
            except IndexError:
                pass  # a packet of a track that began after the file was opened; PyAV knows it not
            except av.error.FFmpegError:
                faults += 1

    def seconds(self, timestamp: int, track: Stream) -> float:
        """Media time of a timestamp of a track."""
        return timestamp * self._tick_s[track.index] - self.origin_s

    def claims(self, seconds: float, track: Stream) -> bool:
        """Whether the container says that a track has something at this media time."""
        if not track.duration:
            return False
        begin = self.seconds(track.start_time or 0, track)
        return begin <= seconds <= begin + track.duration * self._tick_s[track.index]

    def timestamp(self, seconds: float, track: Stream) -> int:
        """Timestamp of a media time, rounded down."""
        return int((seconds + self.origin_s) // self._tick_s[track.index])


def _lean(head: bytes) -> dict[str, str]:
    """Options that spare the search for what a clip does not need.

    MP4 and Matroska state their tracks up front, so that libavformat need not decode the first
    frames of each (up to 12 ms a file). Elsewhere only the search for the duration is left out.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat") or head[:4] == b"\x1a\x45\xdf\xa3":
        return {"probesize": "32", "skip_frame": "all"}
    return {"skip_estimate_duration_from_pts": "1"}


def _rank_picture(stream: VideoStream) -> tuple[bool, bool, int]:
    """Which of several picture tracks a player shows: the default one, else the largest.

    libavformat's own choice depends on how much of each it happened to read when opening.
    """
    context = stream.codec_context
    default = bool(stream.disposition & av.stream.Disposition.default)
    return context is not None, default, context.width * context.height if context else 0


def _rank_sound(stream: AudioStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    default = bool(stream.disposition & av.stream.Disposition.default)
    return context is not None, default, context.channels if context else 0


def _needs_first_packet(stream: VideoStream) -> bool:
    """Whether only the first packet tells the decoder which encoder's bug it has to live with.

    x264 before build 151 wrote 4:4:4 wrongly and names itself there; without that a clip from
    the middle decodes to noise.
    """
    context = stream.codec_context
    if context.name != "h264":
        return False
    header = context.extradata or b""
    predictive_444 = header[:2] == bytes((1, 244))  # version and profile of an avcC box
    return predictive_444 or (context.pix_fmt or "").startswith("yuv444")


def _is_cover(stream: VideoStream) -> bool:
    flags = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return bool(stream.disposition & flags)


@cache
def hardware() -> HWAccel | None:
    """NVIDIA's decoder, with libavcodec's own for what it does not know; None: there is none."""
    try:
        HWAccel("cuda").create(av.Codec("h264", "r"))
    except (OSError, av.error.FFmpegError, RuntimeError, NotImplementedError) as error:
        warnings.warn(f"clips.decoder=cuda: the CPU decodes here ({error})", stacklevel=2)
        return None
    return HWAccel("cuda", allow_software_fallback=True)


def opened(source: Source, timeout_s: float, lean: bool = True, decoder: str = "cpu") -> Media:
    """Open a file for reading, to be used in a ``with`` statement.

    Args:
        lean: do without durations and rates that the container does not state.
        decoder: of pictures; ``cuda`` where this machine has it.

    Raises:
        Reject: it is missing, empty, unreadable, no media, or has no track that can be decoded.
    """
    media = Media(source, timeout_s, lean, decoder)
    try:
        media.load()
    except BaseException as error:
        media.close()
        if isinstance(error, Exception):
            raise explain(error, media.unopenable) from error
        raise
    return media
