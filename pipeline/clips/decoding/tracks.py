"""Which of a file's tracks to use, and what their decoders need to know first."""

from __future__ import annotations

import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream


def video_rank(stream: VideoStream) -> tuple[bool, bool, int]:
    """The order of video tracks: the largest is the one that a player shows.

    Players take the default track, else the one with the largest frames. libavformat's own choice
    depends on how much of each it happened to read when opening.
    """
    context = stream.codec_context
    default = bool(stream.disposition & av.stream.Disposition.default)
    return context is not None, default, context.width * context.height if context else 0


def audio_rank(stream: AudioStream) -> tuple[bool, bool, int]:
    """As `video_rank`: the default track, else the one with the most channels."""
    context = stream.codec_context
    default = bool(stream.disposition & av.stream.Disposition.default)
    return context is not None, default, context.channels if context else 0


def needs_first_packet(stream: VideoStream) -> bool:
    """Whether only the first packet tells the decoder which encoder's bug it has to live with.

    x264 before build 151 wrote 4:4:4 wrongly and names itself there; without that a clip from
    the middle decodes to noise.
    """
    context = stream.codec_context
    if context.name != "h264":
        return False
    header = context.extradata or b""
    predictive_444 = header[:2] == bytes((1, 244))  # version and profile of an avcC box
    return predictive_444 or (context.pix_fmt or "").startswith("yuv444")


def is_cover(stream: VideoStream) -> bool:
    """Whether a video track is cover art or thumbnails."""
    flags = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return bool(stream.disposition & flags)
