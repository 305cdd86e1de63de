"""The packets that a stretch of media time needs: one seek, one read, both tracks together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from av.packet import Packet

from pipeline.clips.decoding.decoder import Interval
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.samples import AROUND_S, PREROLL_S
from pipeline.clips.rejects import Reason, Reject

# How far one track may lie behind the other in the file; beyond it, it has ended or has a hole.
_INTERLEAVE_S = 10.0
# How much earlier each further seek aims when the one before landed behind the wanted keyframe.
# Streams without an index land on any packet, so there the first already aims a usual group early.
_RETREATS_S = (0.0, 2.0, 10.0)
_RETREATS_UNINDEXED_S = (0.6, 2.0, 10.0)
_REORDERED = 16  # frames that may come before one shown earlier (H.264 A.3.1, HEVC A.4.1)
_SETTLING = 3  # audio packets before the preroll
_TORN = 2  # packets after a seek that may not be what they are when read from the start
_MAX_BYTES = 512 << 20


@dataclass
class Span:
    """Packets in decoding order: of an interval, and what the decoders need before it."""

    video: list[Packet]  # from the keyframe at or before the interval's start, to its end
    audio: list[Packet]
    audio_complete: bool = True  # whether reading began early enough for the audio


def read_packets(
    media: Media, video: Interval | None, audio: Interval | None, deadline: float
) -> Span:
    """Read the packets of ``video`` and ``audio`` (media seconds, inclusive).

    Raises:
        Reject: TIMEOUT past ``deadline`` (of time.monotonic); TOO_LARGE beyond 512 MiB of packets.
    """
    start_s = min(
        video[0] if video else float("inf"), audio[0] - PREROLL_S if audio else float("inf")
    )
    stream = media.tracks[0]
    for retreat_s in _RETREATS_UNINDEXED_S if media.floating else _RETREATS_S:
        stamp = media.timestamp(start_s - retreat_s, stream)
        before = stream.start_time is not None and stamp < stream.start_time
        if before or not media.seek(stamp, stream=stream):
            break
        span = _collect(media, video, audio, deadline)
        if _reaches(media, span, video, audio):
            return span
    _rewind(media)
    return _collect(media, video, audio, deadline)


def starts(packet: Packet) -> bool:
    """Whether decoding can start at this packet of a video track.

    AVI indices mark the placeholders of DivX' packed frames (1 to 8 bytes) as keyframes, too.
    """
    return packet.is_keyframe and packet.size > 8


def _rewind(media: Media) -> None:
    """Back to the first packet."""
    if media.floating:
        # By time these land on the first stamped packet, which may be past the first keyframe.
        there = media.seek(0, unsupported_byte_offset=True)
    elif "matroska" in media.container.format.name:
        # Its index names pictures only: seeking passes over sound that begins before the first.
        there = media.at_start
    else:
        there = _seek_first(media)
    if not there:
        media.reopen()


def _seek_first(media: Media) -> bool:
    """Seek to the first packet of the track that begins first; whether the format can do it.

    Seeking by another track, MP4 starts all of them where that one begins.
    """
    starts_s = {s: media.seconds(s.start_time, s) for s in media.tracks if s.start_time is not None}
    if len(starts_s) == 2:
        first = min(starts_s, key=lambda s: starts_s[s])
        stamp = media.timestamp(min(0.0, starts_s[first]), first)
        return media.seek(stamp, stream=first)
    return media.seek(min(0, media.container.start_time or 0))


def _collect(media: Media, video: Interval | None, audio: Interval | None, deadline: float) -> Span:
    frames, samples = _VideoPackets(media, video), _AudioPackets(media, audio)
    tracks = [s for s, r in ((media.video, video), (media.audio, audio)) if s is not None and r]
    for packet in media.packets(tracks, deadline):
        is_video = packet.stream.type == "video"
        reached = frames.add(packet) if is_video else samples.add(packet)
        other = samples if is_video else frames
        if reached > other.end_s + _INTERLEAVE_S:
            other.done = True
        if frames.done and samples.done:
            break
        if frames.size + samples.size > _MAX_BYTES:
            raise Reject(Reason.TOO_LARGE, f"more than {_MAX_BYTES >> 20} MiB of packets in a clip")
    return Span(frames.packets, [*samples.before, *samples.packets], samples.complete)


class _TrackPackets:
    """Packets that an interval of one track needs; none where it is not wanted."""

    def __init__(self, media: Media, wanted: Interval | None) -> None:
        self.media = media
        self.done = wanted is None
        self.start_s, self.end_s = wanted or (0.0, 0.0)
        self.packets: list[Packet] = []
        self.size = 0

    def keep(self, packet: Packet) -> None:
        if not self.done:
            self.packets.append(packet)
            self.size += packet.size


class _VideoPackets(_TrackPackets):
    """Those from the last keyframe at or before the interval's start to its end."""

    def __init__(self, media: Media, wanted: Interval | None) -> None:
        super().__init__(media, wanted)
        # Matroska stores no decoding times, and after a seek libavformat guesses too late ones.
        self.guessed = "matroska" in media.container.format.name
        self.later = 0  # packets in a row that are shown after the interval

    def add(self, packet: Packet) -> float:
        """Take a packet; the media time that the track has reached in decoding order."""
        shown = self.media.seconds_of(packet, packet.stream)
        if shown is not None and shown <= self.start_s and starts(packet) and not packet.is_discard:
            self.packets.clear()
            self.size = 0
        self.keep(packet)
        if shown is None:
            return float("-inf")
        at = shown if packet.dts is None else self.media.seconds(packet.dts, packet.stream)
        self.later = self.later + 1 if shown > self.end_s else 0
        if self.later > _REORDERED if self.guessed else at > self.end_s:
            self.done = True
        return at


class _AudioPackets(_TrackPackets):
    """Those of the interval, and a fixed number before it for the decoder to settle.

    Which these are depends on the file and the interval alone, if reading began early enough.
    """

    def __init__(self, media: Media, wanted: Interval | None) -> None:
        super().__init__(media, wanted)
        self.before: deque[Packet] = deque(maxlen=_SETTLING)
        self.passed = 0  # packets that end before the interval and its preroll
        self.first_s: float | None = None
        self.at_s: float | None = None

    def add(self, packet: Packet) -> float:
        """Take a packet; the media time that the track has reached in decoding order."""
        at = self.media.seconds_of(packet, packet.stream)
        if at is None:
            at = self.at_s  # of one frame among several that share a timestamp
        elif self.first_s is None:
            self.first_s = at
        self.at_s = at
        if at is None or at < self.start_s - PREROLL_S:
            self.before.append(packet)
            self.passed += 1
        else:
            self.keep(packet)
            self.done = self.done or at > self.end_s + AROUND_S
        return float("-inf") if at is None else at

    @property
    def complete(self) -> bool:
        """Whether reading began early enough: farther back, it would find the same packets.

        The first packets after a seek may be torn, or lack what a parser learns from those before.
        """
        if self.start_s == self.end_s or self.passed >= _SETTLING + _TORN:
            return True
        track = self.media.audio
        if track is None or track.start_time is None or self.first_s is None:
            return False
        return self.first_s <= self.media.seconds(track.start_time, track) + 1e-3


def _reaches(media: Media, span: Span, video: Interval | None, audio: Interval | None) -> bool:
    """Whether the seek landed early enough for both tracks."""
    if video is not None:
        first = next((p for p in span.video if starts(p) and not p.is_discard), None)
        at = media.seconds_of(first, first.stream) if first is not None else None
        if at is None or at > video[0]:
            return False
    return audio is None or span.audio_complete
