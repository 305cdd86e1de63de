"""The packets that a stretch of media time needs: one seek, one read, both tracks together."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import av
from av.packet import Packet

from pipeline.clips.media import Media
from pipeline.clips.rejects import Reason, Reject
from pipeline.clips.sound import PREROLL_S

# Packets of one track may lie this far behind the other's in the file; beyond it the track that
# is still missing has ended or has a hole.
_INTERLEAVE_S = 10.0
# How much earlier each further seek aims when the one before landed behind the wanted keyframe.
# Streams without an index land on any packet, so there the first already aims a usual group early.
_RETREATS_S = (0.0, 2.0, 10.0)
_RETREATS_UNINDEXED_S = (0.6, 2.0, 10.0)
_MAX_BYTES = 512 << 20

Range = tuple[float, float]


@dataclass
class Span:
    """Packets in decoding order.

    Attributes:
        video: from the keyframe at or before the range's start, to its end.
        audio: of the range, with what the decoder needs before it.
    """

    video: list[Packet] = field(default_factory=list)
    audio: list[Packet] = field(default_factory=list)


def read(media: Media, video: Range | None, audio: Range | None, deadline: float) -> Span:
    """Read the packets that show ``video`` and sound in ``audio`` (media seconds, inclusive).

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
    """Whether decoding can start at this packet of a picture track.

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


def _collect(media: Media, video: Range | None, audio: Range | None, deadline: float) -> Span:
    span = Span()
    before: deque[Packet] = deque()  # sound before its window, for the decoder to settle
    video_done, audio_done = video is None, audio is None
    size = 0
    for packet in _packets(media, video, audio):
        if time.monotonic() > deadline:
            raise Reject(Reason.TIMEOUT, "reading packets")
        at = clock(media, packet)
        if video is not None and packet.stream is media.video:
            if at is not None and starts(packet) and at <= video[0] and not packet.is_discard:
                size -= sum(p.size for p in span.video)
                span.video.clear()
            if not video_done:
                span.video.append(packet)
                size += packet.size
            order = packet.dts if packet.dts is not None else packet.pts
            if order is not None:
                reached = media.seconds(order, media.video)
                video_done = video_done or reached > video[1]
                audio_done = audio_done or (
                    audio is not None and reached > audio[1] + _INTERLEAVE_S
                )
        elif audio is not None and packet.stream is media.audio and not audio_done:
            if at is not None and at < audio[0] - PREROLL_S:
                before.append(packet)
                if len(before) > 3:
                    before.popleft()
            else:
                if before:
                    span.audio.extend(before)
                    before.clear()
                span.audio.append(packet)
                size += packet.size
            if at is not None:
                audio_done = at > audio[1]
                video_done = video_done or (video is not None and at > video[1] + _INTERLEAVE_S)
        if size > _MAX_BYTES:
            raise Reject(Reason.TOO_LARGE, f"more than {_MAX_BYTES >> 20} MiB of packets in a clip")
        if video_done and audio_done:
            break
    span.audio[:0] = before if not span.audio else ()
    return span


def _packets(media: Media, video: Range | None, audio: Range | None) -> Iterator[Packet]:
    streams = [s for s, r in ((media.video, video), (media.audio, audio)) if s is not None and r]
    faults = 0
    while True:
        try:
            for packet in media.container.demux(streams):
                if packet.size:
                    yield packet
            return
        except av.error.ExitError as error:
            raise Reject(Reason.TIMEOUT, "reading packets") from error
        except av.error.FFmpegError:
            # A damaged stretch: the demuxer goes on behind it, as a player's does.
            faults += 1
            if faults > 100:
                return


def _reaches(media: Media, span: Span, video: Range | None, audio: Range | None) -> bool:
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
