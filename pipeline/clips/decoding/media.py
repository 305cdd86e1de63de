"""One open media file: its container, the two tracks that matter, and its presentation clock.

Media time is the container's presentation clock in seconds. Transport and program streams start
their clock anywhere (a recording may begin at 38,000 s), so there it counts from the file's first
timestamp, as ``ffmpeg -ss`` does; everywhere else timestamps are taken as they are.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.clips.decoding.archives import refuse_archive
from pipeline.clips.decoding.decoder import MediaFile, Source
from pipeline.clips.decoding.formats import (
    FORMAT_WHITELIST,
    HEAD,
    reject_for_format,
    reject_photograph,
)
from pipeline.clips.decoding.ranges import RangeReader, check_size
from pipeline.clips.decoding.tracks import choose_tracks, needs_first_packet, nvidia
from pipeline.clips.rejects import Reason, Reject, reject_for

av.logging.set_level(av.logging.PANIC)

# How files of the common formats begin: MP4 and QuickTime, Matroska, AVI and WAV, Ogg, FLAC, MP3
# with tags, FLV, Windows Media, MPEG program and video streams.
_MEDIA_HEAD = re.compile(
    rb"....(ftyp|moov|mdat|wide|skip|free)|\x1a\x45\xdf\xa3|(RIFF|RIFX)....(AVI |WAVE)|OggS|fLaC"
    rb"|ID3|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\x00\x00\x01[\xba\xb3]",
    re.DOTALL,
)
_MAX_DAMAGED = 100  # damaged stretches after which the rest of a file is not read
_FLOATING_CLOCKS = {"mpegts", "mpeg", "vob"}  # formats whose clock starts anywhere
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMAT_WHITELIST}

# FFmpeg's errors that are the system's, too.
_OF_THE_SYSTEM = FileNotFoundError | IsADirectoryError | TimeoutError | MemoryError


@dataclass(frozen=True)
class Part:
    """A range of a file's bytes that is a file of its own."""

    begin: int
    end: int
    shift_s: float = 0.0  # added to its own clock


class _Slice:
    """A part of a file, as a file object."""

    def __init__(self, file: Any, part: Part) -> None:
        self._file, self._begin, self._end = file, part.begin, part.end
        self._file.seek(part.begin)

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._end - self._begin}
        self._file.seek(self._begin + max(0, base[whence] + offset))
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))


class Media:
    """An open file, made by `opened`. Not thread-safe.

    Attributes:
        floating: whether it is a transport or program stream: no index, and any first timestamp.
        origin_s: timestamp, in seconds, of media time 0; head: its first bytes.
        at_start: whether nothing was read or sought since it was opened.
    """

    container: InputContainer
    video: VideoStream | None  # the tracks to use
    audio: AudioStream | None

    def __init__(
        self, source: Source, timeout_s: float, lean: bool, hardware: bool, part: Part | None
    ) -> None:
        self.source, self._timeout_s = source, timeout_s
        self._lean, self._hardware, self._part = lean, hardware, part
        self._handle: Any = None
        self.head = b""

    def load(self) -> None:
        """Open, choose the tracks, and set the decoders to one thread.

        Raises:
            Reject: nothing in it can be used.
            Exception: what storage or libavformat reports; see `reject_for_ffmpeg`.
        """
        # PyAV adds the last error that FFmpeg logged to its next exception. This clears an error
        # about another file.
        with suppress(av.error.FFmpegError):
            av.error.err_check(-errno.EINVAL)
        file = self.source
        source = file.location if isinstance(file, MediaFile) else file
        place: Any
        if isinstance(source, bytes):
            self.head = source[:HEAD]
            place = io.BytesIO(source)
        elif source.is_local:
            # An error here says in the system's words what is wrong.
            with open(source.uri, "rb") as stream:
                self.head = stream.read(HEAD)
                check_size(file, os.fstat(stream.fileno()).st_size)
            if not self.head:
                raise Reject(Reason.EMPTY_FILE)
            place = f"file:{source.uri}"
            if "%" in place:
                # libavformat would take "%d.gif" for a pattern of names. This one has a number.
                place = self._handle = os.fdopen(os.open(source.uri, os.O_RDONLY), "rb")
        else:
            place = self._handle = RangeReader(file)
            self.head = self._handle.read(HEAD)
            self._handle.seek(0)
        if self._part is not None:
            if not isinstance(source, bytes) and source.is_local and self._handle is None:
                place = self._handle = open(source.uri, "rb")  # noqa: SIM115  (closed with this)
            place = _Slice(place, self._part)
        refuse_archive(self.head)
        self.container = av.open(
            place,
            mode="r",
            timeout=(self._timeout_s, self._timeout_s) if isinstance(place, str) else None,
            metadata_errors="replace",
            buffer_size=1 << 16,
            hwaccel=nvidia() if self._hardware else None,
            options=_OPTIONS | (_lean(self.head) if self._lean else {}),
        )
        reject_photograph(self.container)
        names = set(self.container.format.name.split(","))
        self.video, self.audio = choose_tracks(self.container)
        self.at_start = True
        # Fractions are exact, and a fifth of the time that a clip takes.
        self._tick_s = {s.index: float(s.time_base or 1) for s in self.tracks}
        self.floating = bool(names & _FLOATING_CLOCKS)
        start_s = (self.container.start_time or 0) / av.time_base
        self.origin_s = start_s if self.floating else 0.0
        if self._part is not None:
            self.origin_s -= self._part.shift_s
        if self.video is not None and needs_first_packet(self.video):
            self.at_start = False
            with suppress(av.error.FFmpegError):
                next(self.container.demux(self.video)).decode()

    @property
    def reader(self) -> RangeReader | None:
        """What reads a remote file, while it is open."""
        return self._handle if isinstance(self._handle, RangeReader) else None

    @property
    def tracks(self) -> list[VideoStream | AudioStream]:
        return [track for track in (self.video, self.audio) if track is not None]

    def __enter__(self) -> Media:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reopen(self) -> None:
        """Back to the first packet, for files in which seeking fails."""
        self.close()
        self.load()

    def twin(self) -> Media:
        """The same file, opened once more."""
        twin = Media(self.source, self._timeout_s, self._lean, hardware=False, part=self._part)
        twin.load()
        return twin

    def seek(self, timestamp: int, **options: Any) -> bool:
        """`container.seek`, to the keyframe before; whether the format can do it."""
        self.at_start = False
        try:
            self.container.seek(timestamp, **options)
        except (av.error.FFmpegError, ValueError, OverflowError):
            return False
        return True

    def close(self) -> None:
        if hasattr(self, "container"):
            self.container.close()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def beginning(self, size: int) -> bytes:
        """The first bytes of the file."""
        source = self.source.location if isinstance(self.source, MediaFile) else self.source
        if isinstance(source, bytes):
            return source[:size]
        if self._handle is None:
            with open(source.uri, "rb") as stream:
                return stream.read(size)
        place = self._handle.tell()
        self._handle.seek(0)
        data = self._handle.read(size)
        self._handle.seek(place)
        return data

    def packets(self, tracks: Sequence[Stream], deadline: float) -> Iterator[Packet]:
        """Packets of these tracks from here on, across damaged stretches, as a player reads.

        Raises:
            Reject: TIMEOUT past `deadline` (of time.monotonic), or where storage does not answer.
        """
        damaged = 0
        self.at_start = False
        while damaged < _MAX_DAMAGED:
            try:
                for packet in self.container.demux(list(tracks)):
                    if time.monotonic() > deadline:
                        raise Reject(Reason.TIMEOUT, "reading packets")
                    if packet.size:
                        yield packet
                return
            except av.error.ExitError as error:
                raise Reject(Reason.TIMEOUT, "reading packets") from error
            except IndexError:
                pass  # a packet of a track that began after the file was opened, unknown to PyAV
            except av.error.FFmpegError:
                damaged += 1

    def seconds(self, timestamp: int, track: Stream) -> float:
        """Media time of a timestamp of a track."""
        return timestamp * self._tick_s[track.index] - self.origin_s

    def seconds_of(self, packet: Packet | VideoFrame | AudioFrame, track: Stream) -> float | None:
        """Media time at which a packet or frame is presented; None where it has no timestamp."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        return None if stamp is None else self.seconds(stamp, track)

    def stated_end_s(self, track: Stream) -> float | None:
        """Media time at which a track ends, where the container says so."""
        if not track.duration or self.floating:
            return None
        return self.seconds((track.start_time or 0) + track.duration, track)

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


def opened(
    source: Source,
    timeout_s: float,
    lean: bool = True,
    hardware: bool = False,
    part: Part | None = None,
) -> Media:
    """Open a file for reading, to be used in a ``with`` statement.

    Args:
        lean: do without durations and rates that the container does not state.
        hardware: decode video with NVIDIA's decoder where this machine has one.
        part: only these bytes, as if they were the file.

    Raises:
        Reject: it is missing, empty, unreadable, no media, or has no track that can be decoded.
    """
    media = Media(source, timeout_s, lean, hardware, part)
    try:
        media.load()
    except Exception as error:
        media.close()
        otherwise = Reason.CORRUPT if _MEDIA_HEAD.match(media.head) else Reason.NOT_MEDIA
        what = reject_for_format(error, media.head)
        raise what or reject_for_ffmpeg(error, otherwise) from error
    return media


def reject_for_ffmpeg(error: BaseException, otherwise: Reason) -> Reject:
    """`reject_for`, for FFmpeg's errors as well."""
    if not isinstance(error, av.error.FFmpegError) or isinstance(error, _OF_THE_SYSTEM):
        return reject_for(error, otherwise)
    if isinstance(error, av.error.ExitError):
        otherwise = Reason.TIMEOUT
    elif isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError):
        otherwise = Reason.UNSUPPORTED
    return replace(reject_for(error, otherwise), reason=otherwise)


@contextmanager
def ffmpeg_errors_as_rejects() -> Iterator[None]:
    """FFmpeg's errors in a ``with`` block are raised as rejects, corrupt by default."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise reject_for_ffmpeg(error, Reason.CORRUPT) from error
