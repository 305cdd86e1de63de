"""Which packets must be decoded for the frames displayed at given times, and these frames.

Each time's frame is decoded from a keyframe that follows from the file and the time alone. So it is
the same to the last bit whichever other times are asked for with it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipeline.clips.decoding.clock import TOLERANCE_S, FrameClock, Trust, timed
from pipeline.clips.decoding.encryption import reject_encrypted
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.nal import is_layered, recovery_frames
from pipeline.clips.decoding.pace import PacketPace
from pipeline.clips.decoding.packets import Span, read_packets, starts

# Codecs whose decoders can skip frames that no other refers to.
_SKIPPING = {"h264", "mpeg1video", "mpeg2video", "vp8"}
# Keyframes further back from which a frame is tried that its own keyframe does not give: there a
# decoder only begins to recover, as in streams with periodic intra refresh.
_EARLIER = 4


@dataclass(frozen=True)
class DisplayedFrame:
    """A decoded frame and when it is displayed; see `decoder.Frame`."""

    frame: VideoFrame
    start_s: float
    end_s: float
    targets: range

    def at(self, targets: range) -> DisplayedFrame:
        """The same for other targets."""
        return DisplayedFrame(self.frame, self.start_s, self.end_s, targets)


def displayed_frames(
    media: Media, span: Span, targets_s: Sequence[float], deadline: float
) -> Iterator[DisplayedFrame]:
    """Decode what is displayed at each of ``targets_s`` (sorted media seconds).

    Where every packet is stamped, only groups of pictures that matter are decoded, from their
    keyframe to the last frame needed, less frames that no other needs. Targets before the first
    frame get the first, after the last the last.

    Raises:
        Reject: TIMEOUT past ``deadline`` (of time.monotonic); UNSUPPORTED: they are encrypted.
    """
    reject_encrypted(span.video)
    left = list(range(len(targets_s)))
    for earlier in range(_EARLIER + 1):
        times = [targets_s[i] for i in left]
        if earlier and not span.from_start:
            span = read_packets(media, (times[0], times[-1]), None, deadline, earlier)
        search = _Search(media, span, earlier, deadline)
        shown: set[int] = set()
        for item in search.displayed(times):
            shown.update(item.targets)
            # Those that are neighbours here may not have been so before.
            places = [left[i] for i in item.targets]
            together = places[-1] - places[0] == len(places) - 1
            for run in [places] if together else [[place] for place in places]:
                yield item.at(range(run[0], run[-1] + 1))
        left = [place for i, place in enumerate(left) if i not in shown]
        if all(search.is_first(search.start_of(targets_s[place])) for place in left):
            return


class _Search:
    """Frames displayed at given times, from the keyframe so many before each one's own."""

    def __init__(self, media: Media, span: Span, earlier: int, deadline: float) -> None:
        self.media, self.packets, self.deadline = media, span.video, deadline
        self.clock = FrameClock(media, span.video)
        self.earlier, self.from_start = earlier, span.from_start
        self.keys = [place for place, packet in enumerate(span.video) if starts(packet)]

    def displayed(self, targets_s: Sequence[float]) -> Iterator[DisplayedFrame]:
        """As far as the decoder gives them."""
        groups: dict[tuple[int, Trust], list[int]] = defaultdict(list)
        for i, target_s in enumerate(targets_s):
            start = self.start_of(target_s)
            if self._recovers_later(start, target_s) and not self.is_first(start):
                continue
            trust = Trust.NONE if self.earlier else self.clock.trust(start, target_s)
            groups[start, trust].append(i)
        for (start, trust), group in groups.items():
            done = 0
            if trust is not Trust.NONE:
                planned = self._planned if trust is Trust.FULL else self._in_step
                for item in planned(start, [targets_s[i] for i in group]):
                    done = item.targets.stop
                    yield _renumbered(item, group)
            if group[done:]:
                # Packets are unstamped or a planned frame is damaged: show the last frame, as
                # players do.
                for item in self._swept(start, [targets_s[i] for i in group[done:]]):
                    yield _renumbered(item, group[done:])

    def start_of(self, target_s: float) -> int:
        """Place of the keyframe from which the frame shown at a time is decoded."""
        key = self._key(self.clock.place_at(target_s)) - self.earlier
        return self.keys[max(0, key)] if self.keys else 0

    def is_first(self, start: int) -> bool:
        """Whether no keyframe before that at a place is to be tried."""
        at_start = self.from_start and start <= (self.keys[0] if self.keys else start)
        return at_start or self.earlier == _EARLIER

    def _key(self, place: int) -> int:
        """Which of the keyframes the frame of a packet is decoded from."""
        key = bisect_right(self.keys, place) - 1
        if key < 0:
            return 0
        shown, of_key = self.packets[place].pts, self.packets[self.keys[key]].pts
        # A frame that is shown before its keyframe refers to the group before.
        return key - 1 if shown is not None and of_key is not None and shown < of_key else key

    def _recovers_later(self, start: int, target_s: float) -> bool:
        """Whether a decoder that starts at a packet may show the frame of another wrongly.

        Encoders promise too much: with weighted prediction, pictures are not right so soon. So a
        whole period of refresh is added.
        """
        if self._context.name != "h264" or not self.keys:
            return False
        frames = recovery_frames(bytes(self.packets[start]))
        behind = self.clock.place_at(target_s) - start
        return frames > 0 and (self.earlier == 0 or behind < frames)

    def _planned(self, start: int, targets_s: Sequence[float]) -> Iterator[DisplayedFrame]:
        """The frames that the stamps name, in their order, up to the first that does not come."""
        wanted = self.clock.shown_at(targets_s)
        packets = self.packets[start : max(self.clock.places[pts] for pts in wanted) + 1]
        needed = wanted if _droppable(self._context, packets) else None
        due = iter(wanted)
        with closing(self._decoded(packets, needed)) as frames:
            for frame in frames:
                if frame.pts in wanted:
                    if frame.pts != next(due) or frame.is_corrupt:
                        return
                    yield DisplayedFrame(frame, *wanted[frame.pts])

    def _in_step(self, start: int, targets_s: Sequence[float]) -> Iterator[DisplayedFrame]:
        """The same, as far as every frame comes with the next stamp."""
        wanted = self.clock.shown_at(targets_s)
        left = len(wanted)
        with closing(self._decoded(self.packets[start:])) as frames:
            for frame, stamp in zip(frames, self.clock.stamps_from(start)):
                # AVI's chunks are counted, which a decoder that holds frames back would shift.
                held_back = self.clock.counts and frame.dts != stamp
                if frame.pts != stamp or held_back or frame.is_corrupt:
                    return
                if stamp in wanted:
                    yield DisplayedFrame(frame, *wanted[stamp])
                    left -= 1
                if not left:
                    return

    def _swept(self, start: int, targets_s: Sequence[float]) -> Iterator[DisplayedFrame]:
        """Decode everything, and show at each target the last frame at or before it."""
        count, done = len(targets_s), 0
        previous: VideoFrame | None = None
        previous_s = float("-inf")
        with closing(self._decoded(self.packets[start:])) as frames:
            for frame, at in timed(self.clock, start, frames, targets_s[0]):
                if at < previous_s:
                    continue
                after = bisect_left(targets_s, at - TOLERANCE_S, lo=done)
                if after > done and previous is not None:
                    yield DisplayedFrame(previous, previous_s, at, range(done, after))
                elif after > done:
                    # Nothing is displayed before the first frame: it stands in. Elsewhere the
                    # decoder has yet to recover, and an earlier keyframe will do.
                    first_s = float("inf") if self.is_first(start) else self.clock.first_s
                    stands_in = bisect_left(targets_s, first_s - TOLERANCE_S, hi=after)
                    if stands_in:
                        yield DisplayedFrame(frame, at, at, range(stands_in))
                done, previous, previous_s = after, frame, at
                until = self.clock.next_after(start, at)
                if until is not None and done < count and targets_s[-1] < until - TOLERANCE_S:
                    yield DisplayedFrame(frame, at, until, range(done, count))
                    return
                if done == count:
                    return
        if previous is not None:
            until = self.clock.stands_until(previous_s, previous.duration)
            yield DisplayedFrame(previous, previous_s, until, range(done, count))

    @property
    def _context(self) -> VideoCodecContext:
        assert self.media.video is not None
        return self.media.video.codec_context

    def _decoded(
        self, packets: Sequence[Packet], needed: Collection[int] | None = None
    ) -> Generator[VideoFrame]:
        """Frames of a run of packets, those stamped `needed` at least, unless damaged."""
        context = self._context
        context.flush_buffers()
        skipping = False
        pace = PacketPace(self.media, len(packets), self.deadline)
        try:
            for packet in [*packets, None]:
                pace.step()
                skips = needed is not None and packet is not None and packet.pts not in needed
                if skips != skipping:
                    skipping = skips
                    context.skip_frame = "NONREF" if skipping else "DEFAULT"
                with suppress(av.error.FFmpegError, ValueError):
                    yield from context.decode(packet)
        finally:
            context.skip_frame = "DEFAULT"
            context.flush_buffers()


def _renumbered(item: DisplayedFrame, group: Sequence[int]) -> DisplayedFrame:
    places = range(group[item.targets.start], group[item.targets.stop - 1] + 1)
    return item.at(places)


def _droppable(context: VideoCodecContext, packets: Sequence[Packet]) -> bool:
    """Whether frames that nothing refers to may be left out without harm to others."""
    if context.name == "hevc":
        return not any(is_layered(bytes(packet)) for packet in packets)
    return context.name in _SKIPPING
