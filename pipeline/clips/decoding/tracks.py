"""Which of a file's tracks to use, by which decoder, and what that needs to know first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import av
from av.audio.stream import AudioStream
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from pipeline.clips.decoding.encryption import encryption
from pipeline.clips.decoding.mixing import make_layout_readable
from pipeline.clips.decoding.programs import programs_of
from pipeline.clips.rejects import Reason, Reject

_MAX_PIXELS = 8192 * 8192  # beyond it a decoder with reference frames needs gigabytes
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails
# Sound that speaks about the picture instead of being its sound, or is a part of it.
_ASIDES = (
    Disposition.comment
    | Disposition.visual_impaired
    | Disposition.hearing_impaired
    | Disposition.clean_effects
    | Disposition.dependent
)

_Rank = tuple[bool, bool, bool, bool, int]
_NOTHING: _Rank = (False, False, False, False, 0)


def choose_tracks(container: InputContainer) -> tuple[VideoStream | None, AudioStream | None]:
    """Choose a video track (not cover art) and an audio track, one thread each; discard the rest.

    Where a transport stream has several programmes, both are of the same one.

    Raises:
        Reject: there is none that can be decoded, or its frames are absurdly large.
    """
    videos = [s for s in container.streams.video if not s.disposition & _COVERS]
    audios = list(container.streams.audio)
    for sound in audios:
        make_layout_readable(sound)
    program = _program(programs_of(container), videos, audios)
    video = max((s for s in videos if s.index in program), key=_rank, default=None)
    audio = max((s for s in audios if s.index in program), key=_rank, default=None)
    tracks = [s for s in (video, audio) if s is not None]
    usable = [s for s in tracks if s.codec_context is not None and not encryption(container, s)]
    if not usable:
        if tracks:
            raise next(iter(lost_tracks(container, None, None).values()))
        if container.streams.video:
            raise Reject(Reason.STILL_IMAGE, "cover art and no audio")
        raise Reject(Reason.NO_STREAMS)
    for stream in container.streams:
        if stream not in usable:
            stream.discard = Discard.all
    for stream in usable:
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
    video = video if video in usable else None
    if video is not None:
        width, height = video.codec_context.width, video.codec_context.height
        if width * height > _MAX_PIXELS:
            raise Reject(Reason.TOO_LARGE, f"{width}×{height} pixels")
        video.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
    return video, audio if audio in usable else None


def lost_tracks(
    container: InputContainer, video: VideoStream | None, audio: AudioStream | None
) -> dict[str, Reject]:
    """By modality, why a track that the container has is not among those chosen."""
    lost: dict[str, Reject] = {}
    for stream in container.streams:
        chosen = {"video": video, "audio": audio}
        if chosen.get(stream.type, stream) is not None or stream.disposition & _COVERS:
            continue
        why = encryption(container, stream)
        if why is None and stream.codec_context is None:
            why = Reject(Reason.UNSUPPORTED, f"no decoder for its {stream.type}")
        if why is not None:  # else it is another programme's
            lost.setdefault(stream.type, why)
    return lost


def _program(
    programs: Sequence[set[int]], videos: Sequence[VideoStream], audios: Sequence[AudioStream]
) -> set[int]:
    """Indices of the tracks to choose from: of one programme, with video and audio if any has."""

    def rank(program: set[int]) -> tuple[bool, _Rank, _Rank]:
        video = max((_rank(s) for s in videos if s.index in program), default=_NOTHING)
        audio = max((_rank(s) for s in audios if s.index in program), default=_NOTHING)
        return video[0] and audio[0], video, audio

    everything = {s.index for s in [*videos, *audios]}
    program = max(programs, key=rank, default=everything)
    # What it lacks may be a track that no programme lists.
    free = everything.difference(*programs)
    for kind in (videos, audios):
        if not any(s.index in program for s in kind):
            program = program | {s.index for s in kind if s.index in free}
    return program


def _rank(stream: VideoStream | AudioStream) -> _Rank:
    """The order of tracks: the default one, else the one with the largest frames or most channels.

    So do players. libavformat's own choice depends on how much of each it read when opening. Sound
    that comments on the picture is a last resort, even where it is the default; so is a track of
    one frame, which in an image sequence is the cover of the other one.
    """
    context: Any = stream.codec_context
    if context is None or encryption(stream.container, stream):
        return _NOTHING
    size = context.channels if stream.type == "audio" else context.width * context.height
    aside = stream.type == "audio" and bool(stream.disposition & _ASIDES)
    default = bool(stream.disposition & Disposition.default)
    return True, not aside, stream.frames != 1, default, size


def needs_first_packet(stream: VideoStream) -> bool:
    """Whether only the first packet names an encoder whose bug the decoder must work around.

    x264 before build 151 wrote 4:4:4 wrongly; unless it is named, a clip from the middle is noise.
    """
    context = stream.codec_context
    if context.name != "h264":
        return False
    header = context.extradata or b""
    predictive_444 = header[:2] == bytes((1, 244))  # version and profile of an avcC box
    return predictive_444 or (context.pix_fmt or "").startswith("yuv444")


@cache
def nvidia() -> HWAccel | None:
    """NVIDIA's decoder, or libavcodec's for codecs that it does not know; None: no such GPU."""
    try:
        HWAccel("cuda").create(av.Codec("h264", "r"))
    except (OSError, av.error.FFmpegError, RuntimeError, NotImplementedError) as error:
        warnings.warn(f"clips.decoder=cuda: the CPU decodes here ({error})", stacklevel=2)
        return None
    return HWAccel("cuda", allow_software_fallback=True)
