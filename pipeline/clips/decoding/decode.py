"""Video and audio of clips, cut at the same instant of a file's presentation clock.

Frame ``i`` of ``T`` is the last one presented at or before ``centre_s + (i - (T - 1) / 2) / fps``:
the first one before the track starts, the last one after it ends. Audio samples follow the same
clock and are zero where the track has none.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.clips.decoding.decoder import (
    OUTSIDE_S,
    Decoder,
    MediaInfo,
    Source,
    View,
    load_decoder,
)
from pipeline.clips.rejects import Reason, Reject, reject_for
from pipeline.config import ClipsConfig

_NEAR_S = 1.0  # requests closer than this are read in one sweep rather than with a seek each


@dataclass(frozen=True)
class ClipRequest:
    """One clip of a file, in the modalities that are wanted."""

    centre_s: float  # media time of the clip's middle
    short_side: int  # to which the upright frame (after `VideoConfig.region`) is scaled
    crop_x: float = 0.5  # place of the size×size crop in the free room, 0 to 1; 0.5 is the centre
    crop_y: float = 0.5
    video: bool = True
    audio: bool = True


@dataclass
class DecodedClip:
    """A clip as arrays; a modality is None where it was not wanted or the file has none of it."""

    video: np.ndarray | None  # uint8 [T, size, size, 3] RGB
    audio: np.ndarray | None  # float32 [samples] mono at `AudioConfig.rate`
    # Modalities that were wanted and could not be had, and why; never all of them.
    lost: dict[str, Reject] = field(default_factory=dict)

    def holds(self, request: ClipRequest) -> bool:
        """Whether every modality that was asked for is there."""
        video, audio = self.video is not None, self.audio is not None
        return (video or not request.video) and (audio or not request.audio)


@dataclass(frozen=True)
class _Plan:
    """The `number`-th request with its times (media seconds) worked out."""

    number: int
    centre_s: float
    view: View
    frames_s: tuple[float, ...]  # one per frame; empty where no video is wanted
    audio_s: tuple[float, ...]  # start and end; empty where no audio is wanted
    start_s: float  # of all these
    end_s: float
    lost: dict[str, Reject]  # modalities that are wanted and that the file does not have


def probe(source: Source, timeout_s: float = 30.0, decoder: str = "cpu") -> MediaInfo | Reject:
    """Look into a file and decode a frame of each track; bad media are returned as a `Reject`.

    Raises:
        UserError: there is no such decoder.
    """
    kind = load_decoder(decoder)
    try:
        return kind.probe(source, timeout_s)
    except Exception as error:
        return reject_for(error, Reason.CORRUPT)


def decode_clips(
    source: Source, requests: Sequence[ClipRequest], config: ClipsConfig
) -> list[DecodedClip | Reject]:
    """Decode clips of one file with one open; results in the order of the requests.

    Bad media are returned as rejects, never raised. The time limit is checked between packets; use
    `isolation.decode_clips_isolated` where a decoder that hangs or crashes must not do harm.

    Raises:
        UserError: there is no such decoder as `ClipsConfig.decoder`.
    """
    results = dict(each_clip(source, requests, config))
    return [results[number] for number in range(len(requests))]


def each_clip(
    source: Source,
    requests: Sequence[ClipRequest],
    config: ClipsConfig,
    allow: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[int, DecodedClip | Reject]]:
    """Yield each result of `decode_clips`, with its request's number, as soon as there is one.

    `allow` is called before each step with the seconds that it may take.
    """
    left = set(range(len(requests)))
    if not left:
        return
    decoder = load_decoder(config.decoder)
    allow(config.timeout_s)
    try:
        with closing(decoder.open(source, config.timeout_s)) as media:
            plans = []
            for number, request in enumerate(requests):
                plan = _plan(number, request, media, config)
                if isinstance(plan, _Plan):
                    plans.append(plan)
                else:
                    left.discard(number)
                    yield number, plan
            for group in _groups(sorted(plans, key=lambda plan: plan.start_s), media.breaks_s):
                media.enter(group[0].centre_s)
                decoded = _decode_group(media, group, config, allow)
                for plan, result in zip(group, decoded):
                    left.discard(plan.number)
                    yield plan.number, result
    except Exception as error:
        reject = reject_for(error, Reason.CORRUPT)
        yield from ((number, reject) for number in sorted(left))


def _plan(number: int, request: ClipRequest, media: Decoder, config: ClipsConfig) -> _Plan | Reject:
    video = request.video and media.has_video
    audio = request.audio and media.has_audio
    lacks = {"video": request.video and not video, "audio": request.audio and not audio}
    lost = {
        modality: Reject(Reason.NO_STREAMS, f"the file has no {modality} that can be decoded")
        for modality, lacking in lacks.items()
        if lacking
    }
    if not video and not audio:
        return next(iter(lost.values()), Reject(Reason.NO_STREAMS, "nothing of it is wanted"))
    count, fps = config.video.frames, config.video.fps
    times = tuple(request.centre_s + (i - (count - 1) / 2) / fps for i in range(count))
    window_s = config.audio.window_s
    begin = times[0] if config.audio.align == "start" else request.centre_s - window_s / 2
    window = (begin, begin + window_s)
    size, side = config.video.size, max(config.video.size, request.short_side)
    view = View(size, side, request.crop_x, request.crop_y, config.video.region)
    frames_s, audio_s = times if video else (), window if audio else ()
    edges_s = [*frames_s[:1], *frames_s[-1:], *audio_s]
    begin_s, end_s = min(edges_s), max(edges_s)
    return _Plan(number, request.centre_s, view, frames_s, audio_s, begin_s, end_s, lost)


def _groups(plans: Sequence[_Plan], breaks_s: Sequence[float]) -> list[list[_Plan]]:
    """Plans, sorted by start, in lists that are read in one sweep."""
    groups: list[list[_Plan]] = []
    end = float("-inf")
    piece = 0
    for plan in plans:
        before, piece = piece, bisect_right(breaks_s, plan.centre_s)
        if not groups or plan.start_s > end + _NEAR_S or piece != before:
            groups.append([])
        groups[-1].append(plan)
        end = max(end, plan.end_s)
    return groups


def _decode_group(
    media: Decoder, plans: Sequence[_Plan], config: ClipsConfig, allow: Callable[[float], None]
) -> list[DecodedClip | Reject]:
    """The clips of one sweep. Where that fails, each is decoded alone, and each of its modalities
    alone: a fault touches nothing else.
    """
    budget_s = config.timeout_s * len(plans)
    allow(budget_s)
    deadline = time.monotonic() + budget_s
    try:
        times_s = [t for plan in plans for t in plan.frames_s]
        windows = {p.number: (p.audio_s[0], p.audio_s[1]) for p in plans if p.audio_s}
        edges_s = [t for window in windows.values() for t in window]
        video = (min(times_s), max(times_s)) if times_s else None
        audio = (min(edges_s), max(edges_s)) if windows else None
        media.read(video, audio, deadline)
        videos = _videos(media, plans, config, deadline) if video else {}
        wanted = list(windows.values())
        samples = media.samples(wanted, config.audio.samples, config.audio.rate) if audio else []
    except Exception as error:
        if len(plans) > 1:
            return [_decode_group(media, [plan], config, allow)[0] for plan in plans]
        (plan,) = plans
        if not plan.frames_s or not plan.audio_s:
            return [reject_for(error, Reason.CORRUPT)]
        halves = [replace(plan, audio_s=()), replace(plan, frames_s=())]
        return [joined(*(_decode_group(media, [half], config, allow)[0] for half in halves))]
    audios = dict(zip(windows, samples))
    return [_clip(plan, videos.get(plan.number), audios.get(plan.number)) for plan in plans]


def _clip(
    plan: _Plan, video: np.ndarray | Reject | None, audio: np.ndarray | None
) -> DecodedClip | Reject:
    """The decoded clip of a plan, or a reject if nothing was decoded."""
    lost: dict[str, Reject] = {}
    if isinstance(video, Reject):
        lost["video"], video = video, None
    if audio is None and plan.audio_s:
        begin, end = plan.audio_s
        lost["audio"] = Reject(Reason.CORRUPT, f"no audio between {begin:.2f} and {end:.2f} s")
    if video is None and audio is None:
        return next(iter(lost.values()))
    return DecodedClip(video, audio, plan.lost | lost)


def joined(video: DecodedClip | Reject, audio: DecodedClip | Reject) -> DecodedClip | Reject:
    """One clip of its two modalities, which were decoded alone."""
    if isinstance(video, Reject):
        if isinstance(audio, Reject):
            return video
        return DecodedClip(None, audio.audio, audio.lost | {"video": video})
    if isinstance(audio, Reject):
        return DecodedClip(video.video, None, video.lost | {"audio": audio})
    return DecodedClip(video.video, audio.audio, video.lost | audio.lost)


def _videos(
    media: Decoder, plans: Sequence[_Plan], config: ClipsConfig, deadline: float
) -> dict[int, np.ndarray | Reject]:
    """By number of the plan its frames, uint8 [T, size, size, 3], or why there are none."""
    size, count = config.video.size, config.video.frames
    shown = {plan.number: plan for plan in plans if plan.frames_s}
    targets = sorted((t, n, i) for n, plan in shown.items() for i, t in enumerate(plan.frames_s))
    stacks = {n: np.empty((count, size, size, 3), np.uint8) for n in shown}
    missing = dict.fromkeys(shown, count)
    outside: dict[int, str] = {}
    for frame in media.frames([t for t, _, _ in targets], deadline):
        shown_as: dict[View, np.ndarray] = {}  # clips of one view share it
        for t, n, i in targets[frame.targets.start : frame.targets.stop]:
            if t < frame.start_s - OUTSIDE_S or t > frame.end_s + OUTSIDE_S:
                outside[n] = f"no frame at {t:.2f} s, the nearest is at {frame.start_s:.2f} s"
                continue
            view = shown[n].view
            if view not in shown_as:
                shown_as[view] = frame.rgb(view)
            stacks[n][i] = shown_as[view]
            missing[n] -= 1
    videos: dict[int, np.ndarray | Reject] = {**stacks}
    for n, plan in shown.items():
        if n in outside:
            bad_cut = missing[n] == count and not media.claims_video(plan.centre_s)
            videos[n] = Reject(Reason.BAD_CUT if bad_cut else Reason.CORRUPT, outside[n])
        elif missing[n]:
            videos[n] = Reject(Reason.CORRUPT, "no frame could be decoded there")
    return videos
