"""Which packets must be decoded for the frames displayed at given times, and these frames."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipeline.clips.decoding.encryption import reject_encrypted
from pipeline.clips.decoding.media import Media
from pipeline.clips.decoding.packets import starts
from pipeline.clips.rejects import Reason, Reject

# Rounded to the container's tick, a frame meant for a target may be stamped this much after it.
TOLERANCE_S = 0.002
# Codecs whose decoders can skip frames that no other refers to.
_SKIPPING = {"h264", "mpeg1video", "mpeg2video", "vp8"}


@dataclass(frozen=True)
class DisplayedFrame:
    """A decoded frame and when it is displayed; see `decoder.Frame`."""

    frame: VideoFrame
    start_s: float
    end_s: float
    targets: range


def displayed_frames(
    media: Media, packets: Sequence[Packet], targets_s: Sequence[float], deadline: float
) -> Iterator[DisplayedFrame]:
    """Decode what is displayed at each of ``targets_s`` (sorted media seconds).

    ``packets`` are in decoding order from a keyframe on. Where every packet is stamped, only groups
    of pictures that matter are decoded, from their keyframe to the last frame needed, less frames
    that no other needs. Targets before the first frame get the first, after the last the last.

    Raises:
        Reject: TIMEOUT past ``deadline`` (of time.monotonic); UNSUPPORTED: they are encrypted.
    """
    reject_encrypted(packets)
    done: set[int] = set()
    schedule = _schedule(media, packets, targets_s)
    if schedule is not None:
        for item in _planned(media, packets, *schedule, deadline):
            done.update(item.targets)
            yield item
    if len(done) < len(targets_s):
        # Packets are unstamped or a planned frame is damaged: show the last frame, as players do.
        for item in _swept(media, packets, targets_s, deadline):
            for i in item.targets:
                if i not in done:
                    yield replace(item, targets=range(i, i + 1))


_Runs = list[tuple[int, int]]  # first and last place of the packets to decode
_Wanted = dict[int, tuple[float, float, range]]  # pts → start_s, end_s and targets of its frame


def _schedule(
    media: Media, packets: Sequence[Packet], targets_s: Sequence[float]
) -> tuple[_Runs, _Wanted] | None:
    """What to decode and what for, or None where stamps are missing or repeat."""
    assert media.video is not None
    stamped: dict[int, int] = {}  # pts of a frame that is shown → place of its packet
    for place, packet in enumerate(packets):
        if packet.pts is None or packet.is_corrupt:
            return None
        if packet.is_discard:
            continue
        if packet.pts in stamped:
            return None
        stamped[packet.pts] = place
    if not stamped or not starts(packets[0]) or _counted(media, packets):
        return None
    order = sorted(stamped)
    clock = [media.seconds(pts, media.video) for pts in order]
    wanted: _Wanted = {}
    first = 0
    while first < len(targets_s):
        rank = max(0, bisect_right(clock, targets_s[first] + TOLERANCE_S) - 1)
        pts = order[rank]
        if rank + 1 < len(order):
            until = clock[rank + 1]
            after = bisect_left(targets_s, until - TOLERANCE_S, lo=first + 1)
        else:
            until = media.seconds(pts + (packets[stamped[pts]].duration or 0), media.video)
            after = len(targets_s)
        wanted[pts] = (clock[rank], until, range(first, after))
        first = after
    keys = [place for place, packet in enumerate(packets) if starts(packet)]
    runs: _Runs = []
    for place in sorted(stamped[pts] for pts in wanted):
        key = bisect_right(keys, place) - 1
        # A frame that is shown before its keyframe refers to the group before.
        leading = packets[place].pts < packets[keys[key]].pts  # type: ignore[operator]
        start = keys[max(0, key - 1)] if leading else keys[key]
        if runs and start <= runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], max(place, runs[-1][1]))
        else:
            runs.append((start, place))
    return runs, wanted


def _counted(media: Media, packets: Sequence[Packet]) -> bool:
    """Whether the packets' presentation stamps are made up.

    AVI stores none: its n-th frame is shown at n / fps. libavformat guesses a wrong order for
    reordered frames and for packets of two frames (DivX); only the decoder's order is right then.
    """
    if media.container.format.name != "avi":
        return False
    return any(p.pts is None or p.dts is None or p.pts != p.dts for p in packets)


def _planned(
    media: Media, packets: Sequence[Packet], runs: _Runs, wanted: _Wanted, deadline: float
) -> Iterator[DisplayedFrame]:
    assert media.video is not None
    needed = wanted if _droppable(media.video.codec_context, packets) else None
    for first, last in runs:
        for frame in _decoded(media, packets[first : last + 1], deadline, needed):
            if frame.pts in wanted:
                yield DisplayedFrame(frame, *wanted[frame.pts])


def _swept(
    media: Media, packets: Sequence[Packet], targets_s: Sequence[float], deadline: float
) -> Iterator[DisplayedFrame]:
    """Decode everything, and show at each target the last frame stamped at or before it."""
    assert media.video is not None
    step = 1 / float(media.video.average_rate or media.video.guessed_rate or 25)
    frames = _decoded(media, packets, deadline)
    done = 0
    previous: VideoFrame | None = None
    previous_s = float("-inf")
    for frame, at in _timed(media, packets, frames, targets_s[0] - step, step):
        if at < previous_s:
            continue
        after = bisect_left(targets_s, at - TOLERANCE_S, lo=done)
        if after > done:
            # Nothing is displayed before the first frame: it stands in.
            shown, shown_s = (previous, previous_s) if previous else (frame, at)
            yield DisplayedFrame(shown, shown_s, at, range(done, after))
            done = after
        previous, previous_s = frame, at
        if done == len(targets_s):
            return
    if previous is not None and done < len(targets_s):
        length = float((previous.duration or 0) * (media.video.time_base or 0)) or step
        yield DisplayedFrame(previous, previous_s, previous_s + length, range(done, len(targets_s)))


def _timed(
    media: Media, packets: Sequence[Packet], frames: Iterable[VideoFrame], at: float, step: float
) -> Iterator[tuple[VideoFrame, float]]:
    """Decoded frames and when they are shown, where packets do not say so reliably.

    Frames without stamps follow each other by `step` seconds, the first one follows `at`.
    """
    assert media.video is not None
    counted = _counted(media, packets)
    delay: int | None = None  # of the decoder, in ticks
    backwards, last = [0, 0], [-(1 << 63)] * 2  # times that each kind of stamp ran backwards
    for frame in frames:
        stamp, other = frame.pts, frame.dts
        if counted:
            first = packets[0].dts
            if delay is None and other is not None and first is not None:
                delay = other - first
            stamp = None if delay is None or other is None else other - delay
        else:
            for kind, each in enumerate((stamp, other)):
                backwards[kind] += each is None or each <= last[kind]
                last[kind] = each if each is not None else last[kind]
            # "Best effort", which PyAV hides: the stamp that ran backwards less often.
            if backwards[0] > backwards[1]:
                stamp, other = other, stamp
            stamp = stamp if stamp is not None else other
        at = at + step if stamp is None else media.seconds(stamp, media.video)
        yield frame, at


def _decoded(
    media: Media, packets: Sequence[Packet], deadline: float, needed: _Wanted | None = None
) -> Iterator[VideoFrame]:
    """Frames of a run of packets, at least those stamped `needed` (None: all), unless damaged."""
    assert media.video is not None
    context = media.video.codec_context
    context.flush_buffers()
    skipping = False
    try:
        for packet in [*packets, None]:
            if time.monotonic() > deadline:
                raise Reject(Reason.TIMEOUT, "decoding frames")
            if needed is not None and packet is not None and (packet.pts not in needed) != skipping:
                skipping = not skipping
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            with suppress(av.error.FFmpegError, ValueError):
                yield from context.decode(packet)
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()


def _droppable(context: VideoCodecContext, packets: Sequence[Packet]) -> bool:
    """Whether frames that nothing refers to may be left out without harm to others."""
    if context.name == "hevc":
        return not any(_is_layered(bytes(packet)) for packet in packets)
    return context.name in _SKIPPING


def _is_layered(data: bytes) -> bool:
    """Whether an HEVC packet is, or may be, of a temporal layer above the base.

    There "not referred to" holds within the layer only (H.265 7.4.2.2). Reads the NAL unit
    headers of length-prefixed packets; start codes (transport streams) are not searched.
    """
    place = 0
    while place + 6 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if length < 2 or place + 4 + length > len(data):
            return True
        kind, layer = (data[place + 4] >> 1) & 0x3F, data[place + 5] & 0x07
        if kind < 32 and layer != 1:
            return True
        place += 4 + length
    return False
