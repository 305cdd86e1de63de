"""What a media file holds, proven by decoding a little of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import VideoFrame

from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.media import Media
from pipeline.clips.rejects import Reason, Reject

# Packets without one frame after which a track counts as undecodable.
_HOPELESS_PACKETS = 400
# The end is measured from this far before where the header puts it.
_TAIL_S = 2.0
# A track that lasts no longer beside another one is not worth the other's rest.
_WORTH_S = 0.5
# The leanest speech codecs need twice as many.
_LEAST_BYTES_PER_S = 50
# How far one packet's timestamp may lie beyond the next one's.
_STRAY_S = 10.0


@dataclass
class _Track:
    stream: Any
    first: Any = None  # the first frame that decodes
    packets: int = 0
    start_s: float = float("inf")
    end_s: float = float("-inf")
    frames: int = 0


def probe_media(media: Media, deadline: float) -> MediaInfo:
    """Look into a file that was opened without ``lean``.

    The range is measured on packets where the header has none or is wrong.

    Raises:
        Reject: nothing of it decodes; TIMEOUT past ``deadline`` (of time.monotonic).
    """
    tracks = {s.index: _Track(s) for s in (media.video, media.audio) if s is not None}
    _first_frames(media, tracks, deadline)
    alive = {i: t for i, t in tracks.items() if t.first is not None}
    if not alive:
        if all(not t.packets for t in tracks.values()):
            raise Reject(Reason.NO_STREAMS, "its tracks are empty")
        raise Reject(Reason.CORRUPT, "no frame could be decoded")
    _ends(media, alive, deadline)
    alive = _worth_reading(alive)
    video = next((t for t in alive.values() if t.stream.type == "video"), None)
    audio = next((t for t in alive.values() if t.stream.type == "audio"), None)
    start = max(t.start_s for t in alive.values())
    end = min(t.end_s for t in alive.values())
    if end <= start:
        start = min(t.start_s for t in alive.values())
        end = max(t.end_s for t in alive.values())
    if media.container.size > 0 and end - start > media.container.size / _LEAST_BYTES_PER_S:
        # Else a few stray stamps would become thousands of clips.
        held = f"{media.container.size:,} bytes"
        raise Reject(Reason.CORRUPT, f"its timestamps span {end - start:,.0f} s in {held}")
    width = height = rotation = 0
    fps = 0.0
    if video is not None:
        frame: VideoFrame = video.first
        rotation = -round(frame.rotation / 90) * 90 % 360
        width, height = frame.width, frame.height
        if rotation % 180:
            width, height = height, width
        fps = _rate(video)
    rate = channels = 0
    if audio is not None:
        sample: AudioFrame = audio.first
        rate, channels = sample.sample_rate, sample.layout.nb_channels
    return MediaInfo(
        start,
        end,
        fps,
        width,
        height,
        rotation,
        video is not None,
        audio is not None,
        rate,
        channels,
    )


def _worth_reading(tracks: dict[int, _Track]) -> dict[int, _Track]:
    """Both tracks, or the longer one alone where damage left of the other next to nothing."""
    overlap = min(t.end_s for t in tracks.values()) - max(t.start_s for t in tracks.values())
    longer = max(tracks.values(), key=lambda t: t.end_s - t.start_s)
    if overlap < _WORTH_S <= longer.end_s - longer.start_s:
        return {longer.stream.index: longer}
    return tracks


def _rate(track: _Track) -> float:
    for rate in (track.stream.average_rate, track.stream.guessed_rate, track.stream.base_rate):
        if rate:
            return float(rate)
    return 0.0


def _first_frames(media: Media, tracks: dict[int, _Track], deadline: float) -> None:
    """Decode from the start until each track gave a frame, or showed that it will not."""
    missing = set(tracks)
    for packet in _walk(media, deadline):
        track = tracks.get(packet.stream_index)
        if track is None:
            continue
        track.packets += 1
        if track.stream.index in missing:
            frame = _decoded(track.stream, packet)
            if frame is not None:
                track.first = frame
                missing.discard(track.stream.index)
                track.start_s = _stamp(media, frame, track)
        if not missing or sum(t.packets for t in tracks.values()) > 10 * _HOPELESS_PACKETS:
            break
        if all(tracks[i].packets > _HOPELESS_PACKETS for i in missing):
            break
    for index in list(missing):
        frame = _decoded(tracks[index].stream, None)
        if frame is not None:
            track = tracks[index]
            track.first = frame
            track.start_s = _stamp(media, frame, track)
    for track in tracks.values():
        if track.start_s == float("inf"):
            begin = track.stream.start_time
            track.start_s = media.seconds(begin, track.stream) if begin else 0.0


def _stamp(media: Media, frame: Any, track: _Track) -> float:
    stamp = frame.pts if frame.pts is not None else frame.dts
    return track.start_s if stamp is None else media.seconds(stamp, track.stream)


def _decoded(stream: Any, packet: Any) -> Any:
    try:
        frames = stream.codec_context.decode(packet)
    except (av.error.FFmpegError, ValueError):
        return None
    good = [f for f in frames if stream.type == "video" or f.samples]
    return good[0] if good else None


def _ends(media: Media, tracks: dict[int, _Track], deadline: float) -> None:
    """Measure where each track ends: from near the header's end, else over the whole file."""
    claimed = _claimed_end(media)
    if claimed is not None:
        try:
            media.container.seek(
                int(max(0.0, claimed + media.origin_s - _TAIL_S) * av.time_base), backward=True
            )
        except (av.error.FFmpegError, ValueError, OverflowError):
            claimed = None
    if claimed is not None:
        _measure(media, tracks, deadline)
    if any(t.end_s == float("-inf") for t in tracks.values()):
        media.reopen()
        fresh = {s.index: s for s in media.container.streams}
        for index, track in tracks.items():
            track.stream = fresh.get(index, track.stream)
        _measure(media, tracks, deadline)
    for track in tracks.values():
        track.end_s = max(track.end_s, track.start_s)


def _claimed_end(media: Media) -> float | None:
    ends = []
    for stream in (media.video, media.audio):
        if stream is not None and stream.duration and stream.time_base:
            ends.append(media.seconds((stream.start_time or 0) + stream.duration, stream))
    if not ends and media.container.duration:
        start = (media.container.start_time or 0) / av.time_base - media.origin_s
        ends.append(start + media.container.duration / av.time_base)
    return min(ends) if ends else None


def _measure(media: Media, tracks: dict[int, _Track], deadline: float) -> None:
    ends: dict[int, float] = {}
    for packet in _walk(media, deadline):
        track = tracks.get(packet.stream_index)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if track is None or stamp is None or packet.is_discard:
            continue
        track.frames += 1
        end = media.seconds(stamp + (packet.duration or 0), packet.stream)
        last = ends.get(track.stream.index, end)
        # A damaged stamp stands alone: the next packet is back where the one before was.
        if last < end + _STRAY_S:
            track.end_s = max(track.end_s, last)
        ends[track.stream.index] = end
    for index, end in ends.items():
        tracks[index].end_s = max(tracks[index].end_s, end)


def _walk(media: Media, deadline: float) -> Iterator[Packet]:
    for packet in media.packets([s for s in (media.video, media.audio) if s is not None]):
        if time.monotonic() > deadline:
            raise Reject(Reason.TIMEOUT, "reading packets")
        yield packet
