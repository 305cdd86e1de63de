"""Pictures and sound of clips, cut at the same instant of a file's presentation clock.

Frame ``i`` of ``T`` is the picture *displayed* at ``centre_s + (i - (T - 1) / 2) / fps``: the last
one presented at or before that time. Before a track's first picture that is the first one, after
the end the last one. Sound is the samples of the same clock, zero where the track has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from av.packet import Packet

from pipeline.clips.decoding import frames
from pipeline.clips.decoding import packets as reading
from pipeline.clips.decoding import samples as sound
from pipeline.clips.decoding.media import Media, Source, opened
from pipeline.clips.decoding.reasons import explain
from pipeline.clips.decoding.scaling import Converter, View
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig

# A clip this far outside its track, or a picture that damage holds for this long, is not what was
# asked for.
OUTSIDE_S = 1.0
# Requests closer than this are read in one sweep rather than with a seek each.
_NEAR_S = 1.0


@dataclass(frozen=True)
class ClipRequest:
    """One clip of a file.

    Attributes:
        centre_s: media time of the clip's middle, in seconds of the presentation clock.
        short_side: the upright picture (after `VideoConfig.region`) is scaled to this short side.
        crop_x, crop_y: place of the size×size crop in the free room, 0 to 1; 0.5 is the centre.
        video, audio: which modalities are wanted.
    """

    centre_s: float
    short_side: int
    crop_x: float = 0.5
    crop_y: float = 0.5
    video: bool = True
    audio: bool = True


@dataclass
class DecodedClip:
    """A clip as arrays; a modality is None where it was not wanted or the file has none of it.

    Attributes:
        video: uint8 [T, size, size, 3] RGB.
        audio: float32 [samples] mono at `AudioConfig.rate`.
    """

    video: np.ndarray | None
    audio: np.ndarray | None


@dataclass(frozen=True)
class _Plan:
    """A request with its times (media seconds) worked out."""

    request: ClipRequest
    frames_s: tuple[float, ...]  # one per picture; empty where no picture is wanted
    sound_s: tuple[float, float] | None

    @property
    def start_s(self) -> float:
        return min([*self.frames_s[:1], *(self.sound_s or ())[:1]])

    @property
    def end_s(self) -> float:
        return max([*self.frames_s[-1:], *(self.sound_s or ())[1:]])


def decode_clips(
    source: Source, requests: Sequence[ClipRequest], config: ClipsConfig
) -> list[DecodedClip | Reject]:
    """Decode clips of one file with one open; results in the order of the requests.

    Faults of the media are returned, never raised. The time limit is checked between packets; use
    `isolation.decode_clips_isolated` where a decoder that hangs or crashes must not do harm.
    """
    results: list[DecodedClip | Reject] = [Reject(Reason.CORRUPT, "not decoded")] * len(requests)
    for number, result in each_clip(source, requests, config):
        results[number] = result
    return results


def each_clip(
    source: Source,
    requests: Sequence[ClipRequest],
    config: ClipsConfig,
    allow: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[int, DecodedClip | Reject]]:
    """`decode_clips`, each result (with its request's number) as soon as there is one.

    Args:
        allow: called before each step with the seconds that it may take.
    """
    left = set(range(len(requests)))
    if not left:
        return
    allow(config.timeout_s)
    try:
        with opened(source, config.timeout_s, decoder=config.decoder) as media:
            plans = []
            for number, request in enumerate(requests):
                plan = _plan(request, media, config)
                if isinstance(plan, _Plan):
                    plans.append((number, plan))
                else:
                    left.discard(number)
                    yield number, plan
            for group in _groups(sorted(plans, key=lambda pair: pair[1].start_s)):
                decoded = _decode_group(media, [plan for _, plan in group], config, allow)
                for (number, _), result in zip(group, decoded):
                    left.discard(number)
                    yield number, result
    except Exception as error:
        fault = explain(error, Reason.CORRUPT)
        for number in sorted(left):
            yield number, fault


def _plan(request: ClipRequest, media: Media, config: ClipsConfig) -> _Plan | Reject:
    video = request.video and media.video is not None
    audio = request.audio and media.audio is not None
    if not video and not audio:
        lacks = "picture" if request.video else "sound"
        return Reject(Reason.NO_STREAMS, f"the file has no {lacks} that can be decoded")
    count, fps = config.video.frames, config.video.fps
    times = tuple(request.centre_s + (i - (count - 1) / 2) / fps for i in range(count))
    window_s = config.audio.window_s
    begin = times[0] if config.audio.align == "start" else request.centre_s - window_s / 2
    return _Plan(request, times if video else (), (begin, begin + window_s) if audio else None)


def _groups(plans: Sequence[tuple[int, _Plan]]) -> list[list[tuple[int, _Plan]]]:
    """Numbered plans, sorted by start, in lists that are read in one sweep."""
    groups: list[list[tuple[int, _Plan]]] = []
    end = float("-inf")
    for i, plan in plans:
        if groups and plan.start_s <= end + _NEAR_S:
            groups[-1].append((i, plan))
        else:
            groups.append([(i, plan)])
        end = max(end, plan.end_s)
    return groups


def _decode_group(
    media: Media, plans: Sequence[_Plan], config: ClipsConfig, allow: Callable[[float], None]
) -> list[DecodedClip | Reject]:
    budget_s = config.timeout_s * len(plans)
    allow(budget_s)
    deadline = time.monotonic() + budget_s
    try:
        pictures = [p.frames_s for p in plans if p.frames_s]
        windows = [p.sound_s for p in plans if p.sound_s]
        video = (min(t[0] for t in pictures), max(t[-1] for t in pictures)) if pictures else None
        audio = (min(w[0] for w in windows), max(w[1] for w in windows)) if windows else None
        span = reading.read(media, video, audio, deadline)
        shown = _pictures(media, span.video, plans, config, deadline) if video else {}
        stretches = sound.decoded(media, span.audio, *audio) if audio else []
    except Exception as error:
        if len(plans) == 1:
            return [explain(error, Reason.CORRUPT)]
        return [_decode_group(media, [plan], config, allow)[0] for plan in plans]
    return [_assembled(i, plan, shown, stretches, config) for i, plan in enumerate(plans)]


def _assembled(
    number: int,
    plan: _Plan,
    shown: dict[int, np.ndarray | Reject],
    stretches: Sequence[sound.Stretch],
    config: ClipsConfig,
) -> DecodedClip | Reject:
    video: np.ndarray | None = None
    audio: np.ndarray | None = None
    fault: Reject | None = None
    if plan.frames_s:
        pictures = shown[number]
        if isinstance(pictures, Reject):
            fault = pictures
        else:
            video = pictures
    if plan.sound_s is not None:
        lo, hi = plan.sound_s
        if any(s.start_s < hi + OUTSIDE_S and s.end_s > lo - OUTSIDE_S for s in stretches):
            audio = sound.window(stretches, lo, config.audio.samples, config.audio.rate)
        elif fault is None:
            fault = Reject(Reason.CORRUPT, f"no sound between {lo:.2f} and {hi:.2f} s")
    if video is None and audio is None:
        return fault or Reject(Reason.CORRUPT)
    return DecodedClip(video, audio)


def _pictures(
    media: Media,
    packets: Sequence[Packet],
    plans: Sequence[_Plan],
    config: ClipsConfig,
    deadline: float,
) -> dict[int, np.ndarray | Reject]:
    """The pictures of every plan, uint8 [T, size, size, 3], or why there are none."""
    size = config.video.size
    targets = sorted((t, n, i) for n, plan in enumerate(plans) for i, t in enumerate(plan.frames_s))
    stacks: dict[int, np.ndarray] = {}
    views: dict[int, View] = {}
    converters: dict[View, Converter] = {}
    for n, plan in enumerate(plans):
        if plan.frames_s:
            request = plan.request
            side = max(size, request.short_side)
            views[n] = View(size, side, request.crop_x, request.crop_y, config.video.region)
            converters.setdefault(views[n], Converter(views[n]))
            stacks[n] = np.empty((len(plan.frames_s), size, size, 3), np.uint8)
    missing = [len(plan.frames_s) for plan in plans]
    far: dict[int, str] = {}
    for item in frames.shown(media, packets, [t for t, _, _ in targets], deadline):
        made: dict[View, np.ndarray] = {}
        for t, n, i in targets[item.targets.start : item.targets.stop]:
            if t < item.at_s - OUTSIDE_S or t > item.until_s + OUTSIDE_S:
                far[n] = f"no picture at {t:.2f} s, the nearest is at {item.at_s:.2f} s"
                continue
            view = views[n]
            if view not in made:
                made[view] = converters[view].convert(item.frame)
            stacks[n][i] = made[view]
            missing[n] -= 1
    pictures: dict[int, np.ndarray | Reject] = {}
    for n, stack in stacks.items():
        if n in far:
            whole = missing[n] == len(stack)
            assert media.video is not None
            promised = media.claims(plans[n].request.centre_s, media.video)
            outside = whole and not promised
            pictures[n] = Reject(Reason.BAD_CUT if outside else Reason.CORRUPT, far[n])
        elif missing[n]:
            pictures[n] = Reject(Reason.CORRUPT, "no picture could be decoded there")
        else:
            pictures[n] = stack
    return pictures
