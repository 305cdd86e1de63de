"""The packets that a stretch of media time needs: one seek, one read, both tracks together.

Which packets those are depends on the file and the interval alone, never on where a seek landed:
so a clip is the same whatever was read before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from av.packet import Packet

from pipeline.clips.decoding.decoder import Interval
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.samples import AROUND_S, PREROLL_S
from pipeline.clips.rejects import Reason, Reject

# How far audio may lie behind video in the file; beyond it, it has ended or has a hole. Video is
# never given up so: a picture may stay for minutes.
_INTERLEAVE_S = 10.0
# How much earlier than the one before each seek aims, until it lands early enough. Streams without
# an index land on any packet, so there the first already aims a usual group early.
_RETREATS_S = (0.0, 2.0, 8.0, 30.0, 120.0)
_RETREATS_UNINDEXED_S = (0.6, *_RETREATS_S[1:])
_TICK_S = 0.001
# Codecs that store frames in another order than they show them.
REORDERING = {"h264", "hevc", "vvc", "mpeg4", "mpeg1video", "mpeg2video", "vc1", "wmv3"}
_REORDERED = 16  # frames that may come before one shown earlier (H.264 A.3.1, HEVC A.4.1)
# Audio packets before the preroll: those that are decoded, and those that are only read. The first
# ones after a seek may be torn, or lack what a parser learns from the ones before.
_SETTLING, _TORN = 3, 2
_SETTLING_S = 0.25  # what these take, usually
_STATELESS = ("pcm_", "flac", "alac")  # codecs whose packets stand alone
_EDITED_S = 60.0  # longer than what an edit list leaves out at the beginning
# Formats whose beginning is opened anew. Matroska's index names pictures only: seeking passes over
# sound that begins before the first. In Ogg, after seeking there, Vorbis' first blocks are counted
# by the last one that was read before.
_READ_ANEW = ("matroska", "ogg")
_MAX_BYTES = 512 << 20


@dataclass
class Span:
    """Packets in decoding order: of an interval, and what the decoders need before it."""

    video: list[Packet]  # from the keyframe at or before the interval's start, to its end
    audio: list[Packet]
    from_start: bool  # whether nothing of the video lies before


def read_packets(
    media: Media,
    video: Interval | None,
    audio: Interval | None,
    deadline: float,
    earlier: int = 0,
) -> Span:
    """Read the packets of ``video`` and ``audio`` (media seconds, inclusive).

    Args:
        earlier: so many more keyframes before the interval, where there are as many.

    Raises:
        Reject: TIMEOUT past ``deadline`` (of time.monotonic); TOO_LARGE beyond 512 MiB of packets.
    """
    before_s = PREROLL_S + _SETTLING_S
    aim = min(video[0] if video else float("inf"), audio[0] - before_s if audio else float("inf"))
    stream = media.tracks[0]
    for retreat_s in _RETREATS_UNINDEXED_S if media.floating else _RETREATS_S:
        aim -= retreat_s
        stamp = media.timestamp(aim, stream)
        # Without a stated start most begin at 0; the others are read from where they begin.
        before = stamp < (stream.start_time or 0)
        if before or not media.seek(stamp, stream=stream):
            break
        frames, samples = _collect(media, video, audio, deadline, earlier, False)
        if frames.early_enough and samples.early_enough:
            return Span(frames.packets, samples.packets, False)
        if frames.first_key_s is not None:
            aim = min(aim, frames.first_key_s - _TICK_S)
    _rewind(media)
    frames, samples = _collect(media, video, audio, deadline, earlier, True)
    return Span(frames.packets, samples.packets, not frames.dropped)


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
    elif any(name in media.container.format.name for name in _READ_ANEW):
        if not media.at_start:
            media.reopen()
        there = media.at_start or _seek_first(media)
    else:
        there = _seek_first(media)
    if not there:
        media.reopen()


def _seek_first(media: Media) -> bool:
    """Seek to the first packet of the track that begins first; whether the format can do it.

    Seeking by another track, MP4 starts all of them where that one begins. What its edit list
    leaves out lies before time 0, and the first frame of AAC is whole only after it.
    """
    starts_s = {s: media.seconds(s.start_time, s) for s in media.tracks if s.start_time is not None}
    if "mp4" in media.container.format.name and starts_s:
        first = min(starts_s, key=lambda s: starts_s[s])
        begin_s = min(0.0, starts_s[first]) - _EDITED_S
        return media.seek(media.timestamp(begin_s, first), stream=first)
    return media.seek(min(0, media.container.start_time or 0))


def _collect(
    media: Media,
    video: Interval | None,
    audio: Interval | None,
    deadline: float,
    earlier: int,
    from_start: bool,
) -> tuple[_VideoPackets, _AudioPackets]:
    frames, samples = _VideoPackets(media, video, earlier), _AudioPackets(media, audio)
    tracks = [s for s, r in ((media.video, video), (media.audio, audio)) if s is not None and r]
    for packet in media.packets(tracks, deadline):
        if packet.stream.type == "video":
            reached = frames.add(packet)
            samples.done |= reached > samples.end_s + _INTERLEAVE_S
            if frames.too_late and not from_start:
                break
        else:
            reached = samples.add(packet)
            frames.done |= reached > max(frames.end_s, frames.stated_end_s) + _INTERLEAVE_S
        if frames.done and samples.done:
            break
        if frames.size + samples.size > _MAX_BYTES:
            raise Reject(Reason.TOO_LARGE, f"more than {_MAX_BYTES >> 20} MiB of packets in a clip")
    return frames, samples


class _VideoPackets:
    """Those from a keyframe at or before the interval's start, to the first shown after its end.

    That one tells how long the last picture of the interval is shown, which may be minutes.
    """

    def __init__(self, media: Media, wanted: Interval | None, earlier: int) -> None:
        self.media = media
        self.done = wanted is None
        self.start_s, self.end_s = wanted or (0.0, 0.0)
        self.packets: list[Packet] = []
        self.size = 0
        self.dropped = False  # whether there was more before `packets`
        self.first_key_s: float | None = None
        self.stated_end_s = float("inf")
        self._reorders = False
        if media.video is not None and wanted:
            self.stated_end_s = media.stated_end_s(media.video) or float("inf")
            counted = media.container.format.name == "avi"  # its chunks are in order
            self._reorders = not counted and media.video.codec_context.name in REORDERING
        self._keys: list[int] = []  # places of keyframes at or before the interval's start
        self._wanted_keys = 1 + earlier if wanted else 0
        # Matroska stores no decoding times, and after a seek libavformat guesses too late ones.
        self._guessed = "matroska" in media.container.format.name
        # Where all are stamped alike for decoding and for display, the container may have no stamps
        # for display.
        self._alike = True
        self._later = 0  # packets in a row that are shown after the interval
        self._reached = float("-inf")

    @property
    def early_enough(self) -> bool:
        """Whether the seek landed early enough."""
        return len(self._keys) == self._wanted_keys

    @property
    def too_late(self) -> bool:
        """Whether no further packet can make up for a seek that landed too late."""
        return len(self._keys) < self._wanted_keys and self._reached > self.start_s

    def add(self, packet: Packet) -> float:
        """Take a packet; the media time that the track has reached in decoding order."""
        shown = self.media.seconds_of(packet, packet.stream)
        if starts(packet) and shown is not None and not packet.is_discard:
            if self.first_key_s is None:
                self.first_key_s = shown
            if shown <= self.start_s:
                self._enter(len(self.packets))
        if not self.done:
            self.packets.append(packet)
            self.size += packet.size
        if shown is None:
            return float("-inf")
        at = shown if packet.dts is None else self.media.seconds(packet.dts, packet.stream)
        self._reached = max(self._reached, at)
        self._later = self._later + 1 if shown > self.end_s else 0
        self._alike &= packet.pts == packet.dts
        enough = _REORDERED if self._guessed or (self._alike and self._reorders) else 0
        self.done |= self._later > enough if enough else at > self.end_s
        return at

    def _enter(self, place: int) -> None:
        """A keyframe at or before the interval: drop what is not needed any more."""
        self._keys.append(place)
        if len(self._keys) > self._wanted_keys:
            del self._keys[0]
        first = self._keys[0]
        if first:
            self.dropped = self._alike = True
            self.size -= sum(packet.size for packet in self.packets[:first])
            del self.packets[:first]
            self._keys = [key - first for key in self._keys]


class _AudioPackets:
    """Those of the interval, and a fixed number before it for the decoder to settle."""

    def __init__(self, media: Media, wanted: Interval | None) -> None:
        self.media = media
        self.done = wanted is None
        self.start_s, self.end_s = wanted or (0.0, 0.0)
        self.size = 0
        self._stateless = media.audio is not None and media.audio.codec_context.name.startswith(
            _STATELESS
        )
        self._before: deque[Packet] = deque(maxlen=1 if self._stateless else _SETTLING)
        self._packets: list[Packet] = []
        self._passed = 0  # packets before the interval and its preroll
        self._first_s: float | None = None
        self._at_s: float | None = None

    @property
    def packets(self) -> list[Packet]:
        return [*self._before, *self._packets]

    @property
    def early_enough(self) -> bool:
        """Whether the seek landed so early that from farther back the same packets were chosen."""
        if self._first_s is None:
            return True
        track = self.media.audio
        begin = track.start_time if track is not None else None
        if track and begin is not None and self._first_s <= self.media.seconds(begin, track) + 1e-3:
            return self.media.container.format.name != "ogg"
        return self._passed >= (1 if self._stateless else _SETTLING + _TORN)

    def add(self, packet: Packet) -> float:
        """Take a packet; the media time that the track has reached in decoding order."""
        at = self.media.seconds_of(packet, packet.stream)
        if at is None:
            at = self._at_s  # one of several that share a timestamp
        elif self._first_s is None:
            self._first_s = at
        self._at_s = at
        if at is None or at < self.start_s - PREROLL_S:
            self._before.append(packet)
            self._passed += 1
        elif not self.done:
            self._packets.append(packet)
            self.size += packet.size
            self.done = at > self.end_s + AROUND_S
        return float("-inf") if at is None else at


def audio_of(media: Media, packets: list[Packet], window: Interval) -> list[Packet]:
    """Of the packets of a longer interval those that are read for a window in it alone."""
    chosen = _AudioPackets(media, window)
    for packet in packets:
        chosen.add(packet)
        if chosen.done:
            break
    return chosen.packets
