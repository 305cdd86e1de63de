"""The packets that a stretch of media time needs: one seek, one read, both tracks together."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import av
from av.packet import Packet

from pipeline.clips.decoding.decoder import Interval
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.samples import PREROLL_S
from pipeline.clips.rejects import Reason, Reject

# Packets of one track may lie this far behind the other's in the file; beyond it the track that
# is still missing has ended or has a hole.
_INTERLEAVE_S = 10.0
# How much earlier each further seek aims when the one before landed behind the wanted keyframe.
# Streams without an index land on any packet, so there the first already aims a usual group early.
_RETREATS_S = (0.0, 2.0, 10.0)
_RETREATS_UNINDEXED_S = (0.6, 2.0, 10.0)
# Frames that may come before one that is shown earlier (H.264 A.3.1 and HEVC A.4.1 allow 16).
_REORDERED = 16
_MAX_BYTES = 512 << 20


@dataclass
class Span:
    """Packets in decoding order.

    Attributes:
        video: from the keyframe at or before the interval's start, to its end.
        audio: of the interval, with what the decoder needs before it.
    """

    video: list[Packet] = field(default_factory=list)
    audio: list[Packet] = field(default_factory=list)


def read_packets(
    media: Media, video: Interval | None, audio: Interval | None, deadline: float
) -> Span:
    """Read the packets of ``video`` and ``audio`` (media seconds, inclusive).

    Raises:
        Reject: TIMEOUT past ``deadline`` (of time.monotonic); TOO_LARGE beyond 512 MiB of packets.
    """
    wanted = [r[0] for r in (video,) if r] + [r[0] - PREROLL_S for r in (audio,) if r]
    start_s = min(wanted)
    for retreat_s in _RETREATS_UNINDEXED_S if media.floating else _RETREATS_S:
        if not _seek(media, start_s - retreat_s):
            break
        span = _collect(media, video, audio, deadline)
        if _reaches(media, span, video, audio):
            return span
    _rewind(media)
    return _collect(media, video, audio, deadline)


def clock(media: Media, packet: Packet) -> float | None:
    """Media time at which a packet is presented, as far as the container says."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    return None if stamp is None else media.seconds(stamp, packet.stream)


def starts(packet: Packet) -> bool:
    """Whether decoding can start at this packet of a video track.

    AVI indices mark the placeholders of DivX' packed frames (1 to 8 bytes) as keyframes, too.
    """
    return packet.is_keyframe and packet.size > 8


def _seek(media: Media, seconds: float) -> bool:
    stream = media.video or media.audio
    assert stream is not None
    begin = stream.start_time
    stamp = media.timestamp(seconds, stream)
    if begin is not None and stamp < begin:
        return False
    try:
        media.container.seek(stamp, stream=stream, backward=True)
    except (av.error.FFmpegError, ValueError, OverflowError):
        return False
    return True


def _rewind(media: Media) -> None:
    """Back to the first packet."""
    try:
        if media.floating:
            # By time these land on the first stamped packet, which may be past the first keyframe.
            media.container.seek(0, unsupported_byte_offset=True)
        else:
            media.container.seek(min(0, media.container.start_time or 0), backward=True)
    except (av.error.FFmpegError, ValueError, OverflowError):
        media.reopen()


def _collect(media: Media, video: Interval | None, audio: Interval | None, deadline: float) -> Span:
    frames, samples = _VideoPackets(media, video), _AudioPackets(media, audio)
    tracks = [s for s, r in ((media.video, video), (media.audio, audio)) if s is not None and r]
    for packet in media.packets(tracks):
        if packet.stream_index == frames.index:
            at = frames.add(packet)
            if audio is not None and at > audio[1] + _INTERLEAVE_S:
                samples.done = True
        else:
            at = samples.add(packet)
            if video is not None and at > video[1] + _INTERLEAVE_S:
                frames.done = True
        if frames.done and samples.done:
            break
        if frames.size + samples.size > _MAX_BYTES:
            raise Reject(Reason.TOO_LARGE, f"more than {_MAX_BYTES >> 20} MiB of packets in a clip")
        if time.monotonic() > deadline:
            raise Reject(Reason.TIMEOUT, "reading packets")
    return Span(frames.packets, samples.finished())


class _VideoPackets:
    """Packets from the last keyframe at or before an interval's start to its end."""

    def __init__(self, media: Media, wanted: Interval | None) -> None:
        self.media, self.track = media, media.video
        self.done = wanted is None
        self.start_s, self.end_s = wanted or (0.0, 0.0)
        self.index = -1 if media.video is None or wanted is None else media.video.index
        self.packets: list[Packet] = []
        self.size = 0
        # Matroska stores no decoding times, and after a seek libavformat guesses too late ones.
        self.guessed = "matroska" in media.container.format.name
        self.later = 0  # packets in a row that are shown after the interval

    def add(self, packet: Packet) -> float:
        """Take a packet; the media time that the track has reached in decoding order."""
        assert self.track is not None
        pts, dts = packet.pts, packet.dts
        if starts(packet) and not packet.is_discard:
            stamp = pts if pts is not None else dts
            if stamp is not None and self.media.seconds(stamp, self.track) <= self.start_s:
                self.packets.clear()
                self.size = 0
        if not self.done:
            self.packets.append(packet)
            self.size += packet.size
        order = dts if dts is not None else pts
        if order is None:
            return float("-inf")
        at = self.media.seconds(order, self.track)
        shown = at if pts is None else self.media.seconds(pts, self.track)
        self.later = self.later + 1 if shown > self.end_s else 0
        if self.later > _REORDERED if self.guessed else at > self.end_s:
            self.done = True
        return at


class _AudioPackets:
    """Packets of an interval, and a few before it for the decoder to settle."""

    def __init__(self, media: Media, wanted: Interval | None) -> None:
        self.media, self.track = media, media.audio
        self.done = wanted is None
        self.start_s, self.end_s = wanted or (0.0, 0.0)
        self.packets: list[Packet] = []
        self.before: deque[Packet] = deque(maxlen=3)
        self.size = 0

    def add(self, packet: Packet) -> float:
        """Take a packet; the media time that the track has reached."""
        assert self.track is not None
        stamp = packet.pts if packet.pts is not None else packet.dts
        at = None if stamp is None else self.media.seconds(stamp, self.track)
        if at is not None and at < self.start_s - PREROLL_S:
            self.before.append(packet)
        elif not self.done:
            self.packets.append(packet)
            self.size += packet.size
            self.done = at is not None and at > self.end_s
        return float("-inf") if at is None else at

    def finished(self) -> list[Packet]:
        return [*self.before, *self.packets]


def _reaches(media: Media, span: Span, video: Interval | None, audio: Interval | None) -> bool:
    """Whether the seek landed early enough for both tracks."""
    if video is not None:
        first = next((p for p in span.video if starts(p) and not p.is_discard), None)
        at = clock(media, first) if first is not None else None
        if at is None or at > video[0]:
            return False
    if audio is not None and span.audio:
        at = clock(media, span.audio[0])
        if at is not None and at > audio[0]:
            return _begins_there(media, at)
    return True


def _begins_there(media: Media, at: float) -> bool:
    assert media.audio is not None
    begin = media.audio.start_time
    if begin is None or media.audio.time_base is None:
        return False
    return at <= media.seconds(begin, media.audio) + 1e-3
