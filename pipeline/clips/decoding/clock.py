"""When the frames of a video track are shown: what stamps of packets say, and where they lie."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from itertools import accumulate, chain, islice, pairwise

from av.packet import Packet
from av.video.frame import VideoFrame

from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.packets import REORDERING, starts

# Rounded to the container's tick, a frame meant for a target may be stamped this much after it.
TOLERANCE_S = 0.002
STANDS_S = 10.0  # for which the last picture of a track is shown beyond its own end
_REORDERED = 16  # frames within which a wrong order shows (H.264 A.3.1, HEVC A.4.1)


class Trust(Enum):
    """How far stamps say which frame is shown."""

    FULL = auto()
    # Every frame is stored as if it were shown in the order of decoding. A codec that reorders may
    # mean another order (B-frames in a container without offsets): frames must come in step.
    IN_STEP = auto()
    NONE = auto()


class FrameClock:
    """The stamps of packets in decoding order, from a keyframe on."""

    def __init__(self, media: Media, packets: Sequence[Packet]) -> None:
        assert media.video is not None
        self._media, self._track, self._packets = media, media.video, packets
        self._tick_s = float(media.video.time_base or 1)
        # AVI stores no presentation stamps: its n-th frame is shown at n / fps. libavformat guesses
        # a wrong order for reordered frames and for packets of two frames (DivX).
        reorders = media.video.codec_context.name in REORDERING
        self.counts = reorders and media.container.format.name == "avi"
        self.places: dict[int, int] = {}  # stamp of a frame that is shown → place of its packet
        bad, reordered, reached = [], [], []
        latest = float("-inf")
        group: set[int] = set()
        for place, packet in enumerate(packets):
            pts, dts = packet.pts, packet.dts
            stamp = dts if self.counts else pts
            if starts(packet):
                group = set()
            bad.append(stamp is None or packet.is_corrupt or stamp in group)
            reordered.append(dts is None or pts != dts)
            decoded = pts if dts is None else dts
            if decoded is not None:
                latest = max(latest, self.seconds(decoded))
            reached.append(latest)
            if stamp is not None and not packet.is_discard:
                group.add(stamp)
                self.places.setdefault(stamp, place)
        self._stamps = sorted(self.places)
        self._times = [self.seconds(stamp) for stamp in self._stamps]
        self._bad = [0, *accumulate(bad)]
        self._reordered = [0, *accumulate(reordered)] if reorders else None
        self._reached = reached  # media times, in the order of decoding

    @property
    def step_s(self) -> float:
        """Between two frames, on average."""
        return 1 / float(self._track.average_rate or self._track.guessed_rate or 25)

    def seconds(self, stamp: int) -> float:
        """Media time of a stamp."""
        return stamp * self._tick_s - self._media.origin_s

    @property
    def first_s(self) -> float:
        """When the first frame is shown; infinite where none says so."""
        return self._times[0] if self._times else float("inf")

    def place_at(self, target_s: float) -> int:
        """Place of the packet whose frame is shown at a time."""
        if not self._stamps:
            return 0
        return self.places[self._stamps[self._rank(target_s)]]

    def trust(self, start: int, target_s: float) -> Trust:
        """How far the stamps from a place on say which frame is shown at a time."""
        stop = bisect_right(self._reached, target_s, lo=start) + 1
        stop = min(stop, len(self._packets))
        if not self._packets or not starts(self._packets[start]):
            return Trust.NONE
        if self._bad[stop] > self._bad[start]:
            return Trust.NONE
        if self._reordered is None:
            return Trust.FULL
        if self._reordered[stop] == self._reordered[start]:
            return Trust.IN_STEP
        return Trust.NONE if self.counts else Trust.FULL

    def shown_at(self, targets_s: Sequence[float]) -> dict[int, tuple[float, float, range]]:
        """By stamp, in order, the frames shown at sorted times: start, end and their targets."""
        wanted = {}
        first = 0
        while first < len(targets_s):
            rank = self._rank(targets_s[first])
            if rank + 1 < len(self._times):
                until = self._times[rank + 1]
                after = bisect_left(targets_s, until - TOLERANCE_S, lo=first + 1)
            else:
                packet = self._packets[self.places[self._stamps[rank]]]
                until = self.stands_until(self._times[rank], packet.duration)
                after = len(targets_s)
            wanted[self._stamps[rank]] = (self._times[rank], until, range(first, after))
            first = after
        return wanted

    def next_after(self, start: int, at: float) -> float | None:
        """When the next frame will be shown, where all stamps from a place on are there."""
        if self._bad[-1] > self._bad[start]:
            return None
        rank = bisect_right(self._times, at + 1e-6)
        return self._times[rank] if rank < len(self._times) else None

    def stands_until(self, at: float, duration: int | None) -> float:
        """Until when the last frame of the track is shown; its own duration is in ticks."""
        own = at + (duration or 0) * float(self._track.time_base or 0)
        index = self._track.index_entries
        if len(index) and self.seconds(index[-1].timestamp) > self._reached[-1] + 1e-3:
            return own  # the file is cut off: there were more
        return max(own, self._media.stated_end_s(self._track) or own) + STANDS_S

    def stamps_from(self, start: int) -> list[int]:
        """Stamps of the frames from a place on, sorted."""
        return [stamp for stamp in self._stamps if self.places[stamp] >= start]

    def chunks_until(self, start: int, stamp: int) -> int:
        """How many packets with frames follow that at a place until a stamp of decoding."""
        behind = self._packets[start + 1 :]
        return sum(p.dts is not None and p.dts <= stamp and p.size > 8 for p in behind)

    def _rank(self, target_s: float) -> int:
        return max(0, bisect_right(self._times, target_s + TOLERANCE_S) - 1)


def timed(
    clock: FrameClock, start: int, frames: Iterable[VideoFrame], target_s: float
) -> Iterator[tuple[VideoFrame, float]]:
    """Decoded frames and when they are shown, where packets do not say so reliably.

    Frames without stamps follow each other at the track's rate, the first one is that of
    `target_s`.
    """
    at = target_s - clock.step_s
    in_order = _by_chunks if clock.counts else _in_order
    for frame, stamp in in_order(clock, start, frames):
        at = at + clock.step_s if stamp is None else clock.seconds(stamp)
        yield frame, at


def _in_order(
    clock: FrameClock, start: int, frames: Iterable[VideoFrame]
) -> Iterator[tuple[VideoFrame, int | None]]:
    """Frames as the decoder gives them, which is the order in which they are shown, and stamps.

    A frame has its packet's stamp, unless these run backwards: then the container has no
    presentation stamps, and the n-th frame gets the n-th stamp.
    """
    stamps = clock.stamps_from(start)
    frames = iter(frames)
    number = 0  # of the next stamp
    counted = False
    for frame in frames:
        if frame.pts is not None and stamps[number : number + 1] != [frame.pts]:
            held = [frame, *islice(frames, _REORDERED)]
            frames = chain(held, frames)
            known = [each.pts for each in held if each.pts is not None]
            counted = any(later < sooner for sooner, later in pairwise(known))
            break
        number += 1
        yield frame, _own(frame)
    for frame in frames:
        if not counted:
            yield frame, _own(frame)
            continue
        if frame.key_frame and frame.pts is not None:
            # Frames that were lost before do not move those behind.
            number = max(number, bisect_left(stamps, frame.pts))
        yield frame, stamps[number] if number < len(stamps) else None
        number += 1


def _by_chunks(
    clock: FrameClock, start: int, frames: Iterable[VideoFrame]
) -> Iterator[tuple[VideoFrame, int | None]]:
    """Frames of AVI, and stamps: those of the chunks with which they left the decoder, less the
    chunks that it holds back. A placeholder gives no frame of its own.
    """
    held_back: int | None = None
    for frame in frames:
        if frame.dts is None:
            yield frame, None
            continue
        if held_back is None:
            held_back = clock.chunks_until(start, frame.dts)
        yield frame, frame.dts - held_back


def _own(frame: VideoFrame) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts
