"""What a media file holds, proven by decoding a little of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import av
from av.packet import Packet

from pipeline.clips.decoding.clock import STANDS_S
from pipeline.clips.decoding.colour import unconverted
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.encryption import LOOK_BYTES, packet_encryption, scrambled
from pipeline.clips.decoding.formats import ANIMATIONS
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.mixing import guarded
from pipeline.clips.decoding.orientation import Orientation, rotation
from pipeline.clips.decoding.tracks import lost_tracks
from pipeline.clips.rejects import Reason, Reject

_HOPELESS_PACKETS = 400  # packets without one frame after which a track counts as undecodable
_TAIL_S = 2.0  # the end is measured from this far before where the header puts it
_WORTH_S = 0.5  # a track that overlaps the longer one by less is left out
# The leanest speech codecs need twice as many. Still scenes of one frame a second need fewer, so
# what has fewer is read as a whole; it is corrupt if no packet comes for so long.
_LEAST_BYTES_PER_S = 50
_LONGEST_GAP_S = 600.0
_LONGEST_S = 10.0  # no audio packet is longer; after a seek in Ogg, a short last one is said to be
_STRAY_S = 10.0  # how far one packet's timestamp may lie beyond the next one's


@dataclass
class _Track:
    stream: Any
    first: Any = None  # the first frame that decodes
    packets: int = 0
    start_s: float = float("inf")
    end_s: float = float("-inf")
    last_s: float = float("-inf")  # when the last frame begins
    gap_s: float = 0.0  # between the last two
    encrypted: Reject | None = None

    def decode(self, media: Media, packet: Packet | None) -> None:
        """Take a packet, or the end of the track (None), in search of the first frame."""
        if packet is not None and self.encrypted is None:
            self.encrypted = packet_encryption(packet)
        if self.encrypted is not None:
            return
        try:
            frames = guarded(self.stream.codec_context.decode(packet))
        except (av.error.FFmpegError, ValueError):
            return
        self.first = next((f for f in frames if self.stream.type == "video" or f.samples), None)
        if self.first is not None:
            at = media.seconds_of(self.first, self.stream)
            self.start_s = self.start_s if at is None else at


def probe_media(media: Media, deadline: float) -> MediaInfo:
    """Look into a file opened without ``lean``; packets correct the range that its header states.

    Raises:
        Reject: nothing of it decodes; TIMEOUT past ``deadline`` (of time.monotonic).
    """
    tracks = {stream.index: _Track(stream) for stream in media.tracks}
    _first_frames(media, tracks, deadline)
    lost = lost_tracks(media.container, media.video, media.audio) | _undecodable(media, tracks)
    alive = {i: t for i, t in tracks.items() if t.first is not None and t.stream.type not in lost}
    if not alive:
        if why_not := next((r for r in lost.values() if r.reason is Reason.UNSUPPORTED), None):
            raise why_not
        if all(not t.packets for t in tracks.values()):
            raise Reject(Reason.NO_STREAMS, "its tracks are empty")
        raise Reject(Reason.CORRUPT, "no frame could be decoded")
    _ends(media, alive, deadline)
    encrypted = {t.stream.type: t.encrypted for t in alive.values() if t.encrypted is not None}
    alive = {i: t for i, t in alive.items() if t.encrypted is None}
    lost |= encrypted
    if not alive:
        raise next(iter(encrypted.values()))
    if media.container.format.name in ANIMATIONS and all(
        t.last_s == t.start_s for t in alive.values()
    ):
        raise Reject(Reason.STILL_IMAGE, "an animation of one frame")
    _stand(media, alive)
    decoded, alive = alive, _worth_reading(alive, lost)
    starts, ends = [t.start_s for t in alive.values()], [t.end_s for t in alive.values()]
    start, end = max(starts), min(ends)
    if end <= start:
        start, end = min(starts), max(ends)
    if media.container.size > 0 and end - start > media.container.size / _LEAST_BYTES_PER_S:
        # A few stray stamps would become thousands of clips.
        gap_s = _longest_gap(media, alive, deadline)
        if gap_s > _LONGEST_GAP_S:
            held = f"{media.container.size:,} bytes, with nothing for {gap_s:,.0f} s"
            raise Reject(Reason.CORRUPT, f"its timestamps span {end - start:,.0f} s in {held}")
    width = height = turned = rate = channels = 0
    fps = 0.0
    kinds = {t.stream.type: t for t in alive.values()}
    if video := kinds.get("video"):
        turned = rotation(video.first)
        width, height = Orientation.of(video.first).size(video.first.width, video.first.height)
        rates = (video.stream.average_rate, video.stream.guessed_rate, video.stream.base_rate)
        fps = float(next(filter(None, rates), 0))
    if audio := kinds.get("audio"):
        rate, channels = audio.first.sample_rate, audio.first.layout.nb_channels
    has = "video" in kinds, "audio" in kinds
    why = tuple(lost.items())
    info = MediaInfo(start, end, fps, width, height, turned, *has, rate, channels, lost=why)
    unused = {"video": 0.0, "audio": 0.0}
    for index, track in decoded.items():
        used = max(0.0, min(track.end_s, end) - max(track.start_s, start))
        length = track.end_s - track.start_s
        unused[track.stream.type] = length - used if index in alive else length
    return replace(info, unused_video_s=unused["video"], unused_audio_s=unused["audio"])


def _undecodable(media: Media, tracks: dict[int, _Track]) -> dict[str, Reject]:
    """By modality, why a track gave no frame, or must not."""
    lost: dict[str, Reject] = {}
    for track in tracks.values():
        reject = track.encrypted
        if reject is None and (track.first is None or media.container.format.name == "asf"):
            reject = scrambled(media.container, track.stream, media.beginning(LOOK_BYTES))
        if reject is None and track.stream.type == "video" and track.first is not None:
            reject = unconverted(track.first)
        if reject is None and track.first is None:
            none = Reject(Reason.CORRUPT, "no frame of it could be decoded")
            empty = Reject(Reason.NO_STREAMS, "its track is empty")
            reject = none if track.packets else empty
        if reject is not None:
            lost[track.stream.type] = reject
    return lost


def _stand(media: Media, tracks: dict[int, _Track]) -> None:
    """A last picture stays: as long as the one before, and while sound goes on that the header
    says belongs to it.
    """
    kinds = {track.stream.type: track for track in tracks.values()}
    if (video := kinds.get("video")) is None:
        return
    index = video.stream.index_entries
    cut_off = len(index) and media.seconds(index[-1].timestamp, video.stream) > video.last_s + 1
    if cut_off or video.last_s > video.end_s:  # the latter is a stray stamp
        return
    video.end_s = max(video.end_s, video.last_s + min(video.gap_s, STANDS_S))
    stated_s = media.stated_end_s(video.stream)
    if stated_s is not None and (audio := kinds.get("audio")) is not None:
        video.end_s = max(video.end_s, min(stated_s, audio.end_s))


def _worth_reading(tracks: dict[int, _Track], lost: dict[str, Reject]) -> dict[int, _Track]:
    """Both tracks, or the longer one alone where damage left almost nothing of the other."""
    overlap = min(t.end_s for t in tracks.values()) - max(t.start_s for t in tracks.values())
    longer = max(tracks.values(), key=lambda t: t.end_s - t.start_s)
    if len(tracks) > 1 and overlap < _WORTH_S <= longer.end_s - longer.start_s:
        shorter = next(t for t in tracks.values() if t is not longer)
        why = f"{max(0.0, overlap):.2f} s of it lie beside the {longer.stream.type}"
        lost[shorter.stream.type] = Reject(Reason.TOO_SHORT, why)
        return {longer.stream.index: longer}
    return tracks


def _first_frames(media: Media, tracks: dict[int, _Track], deadline: float) -> None:
    """Decode from the start until each track gave a frame, or showed that it will not."""
    for packet in media.packets(media.tracks, deadline):
        track = tracks[packet.stream_index]
        track.packets += 1
        if track.first is None:
            track.decode(media, packet)
        missing = [t for t in tracks.values() if t.first is None and t.encrypted is None]
        if all(t.packets > _HOPELESS_PACKETS for t in missing):
            break
        if sum(t.packets for t in tracks.values()) > 10 * _HOPELESS_PACKETS:
            break
    for track in tracks.values():
        if track.first is None:
            track.decode(media, None)
        if track.start_s == float("inf"):
            begin = track.stream.start_time
            track.start_s = media.seconds(begin, track.stream) if begin else 0.0


def _ends(media: Media, tracks: dict[int, _Track], deadline: float) -> None:
    """Measure where each track ends: from near the header's end, else over the whole file."""
    claimed = _claimed_end(media)
    if claimed is not None:
        tail_s = max(0.0, claimed + media.origin_s - _TAIL_S)
        if media.seek(int(tail_s * av.time_base)):
            _measure(media, tracks, deadline)
    if any(t.end_s == float("-inf") for t in tracks.values()):
        _reopen(media, tracks)
        _measure(media, tracks, deadline)
    for track in tracks.values():
        track.end_s = max(track.end_s, track.start_s)


def _reopen(media: Media, tracks: dict[int, _Track]) -> None:
    media.reopen()
    fresh = {s.index: s for s in media.container.streams}
    for index, track in tracks.items():
        track.stream = fresh.get(index, track.stream)


def _longest_gap(media: Media, tracks: dict[int, _Track], deadline: float) -> float:
    """Seconds for which a track has no packet, at most, from its first one to its end."""
    _reopen(media, tracks)
    stamps = {index: [track.end_s] for index, track in tracks.items()}
    for packet in media.packets(media.tracks, deadline):
        at = media.seconds_of(packet, packet.stream)
        if at is not None and packet.stream_index in stamps:
            stamps[packet.stream_index].append(at)
    ordered = [sorted(times) for times in stamps.values()]
    return max((b - a for times in ordered for a, b in pairwise(times)), default=0.0)


def _claimed_end(media: Media) -> float | None:
    ends = [
        media.seconds((stream.start_time or 0) + stream.duration, stream)
        for stream in media.tracks
        if stream.duration and stream.time_base
    ]
    if not ends and media.container.duration:
        start = (media.container.start_time or 0) / av.time_base - media.origin_s
        ends.append(start + media.container.duration / av.time_base)
    return min(ends) if ends else None


def _measure(media: Media, tracks: dict[int, _Track], deadline: float) -> None:
    ends: dict[int, float] = {}
    stamps: dict[int, list[float]] = defaultdict(list)  # of the last packets, as they are decoded
    for packet in media.packets(media.tracks, deadline):
        track = tracks.get(packet.stream_index)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if track is None or stamp is None or packet.is_discard:
            continue
        track.encrypted = track.encrypted or packet_encryption(packet)
        at = media.seconds(stamp, packet.stream)
        length_s = (packet.duration or 0) * float(packet.stream.time_base or 0)
        if packet.stream.type == "audio" and length_s > _LONGEST_S:
            length_s = 0.0
        end = at + length_s
        last = ends.get(track.stream.index, end)
        # A damaged stamp stands alone: the next packet is back where the one before was.
        if last < end + _STRAY_S:
            track.end_s = max(track.end_s, last)
        ends[track.stream.index] = end
        stamps[track.stream.index] = sorted([*stamps[track.stream.index], at])[-2:]
    for index, end in ends.items():
        track = tracks[index]
        track.end_s = max(track.end_s, end)
        track.last_s = stamps[index][-1]
        track.gap_s = track.last_s - stamps[index][0]
