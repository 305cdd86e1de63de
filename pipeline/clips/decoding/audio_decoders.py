"""A decoder of the audio track whose result depends on the packets that it is given, only.

Flushing a decoder forgets its packets, but some keep more: AAC and Nellymoser go on with their
random numbers for noise, Opus skips its pre-skip once in its life, and decoders of speech keep the
whole state of their filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import av
from av.codec.context import CodecContext
from av.packet import Packet

from pipeline.clips.decoding.media import Media

# Decoders that a flush puts back to where they began (tests/clips/decoding/test_sound.py).
_FLUSHED = {"vorbis", "flac", "alac", "ac3", "eac3", "wmav1", "wmav2"} | {
    *("mp1float", "mp2float", "mp3float", "mp1", "mp2", "mp3")
}
_FLUSHED_FAMILIES = ("pcm_", "adpcm_")
# Decoders that need nothing from the container but the codec's header: a new one takes 0.1 ms.
_MADE = {"aac", "aac_latm"}
_LONGEST_SKIP = 600  # packets; OpusHead counts up to 65,535 samples


def fresh_decoder(media: Media, packets: Sequence[Packet]) -> Any:
    """A decoder of the audio track for these packets as if nothing had been decoded with it."""
    assert media.audio is not None
    context: Any = media.audio.codec_context
    if context.name == "opus" and packets and not _from_the_first(media, packets[0]):
        if not context.is_open:
            _skip(context, packets[0])
        context.flush_buffers()
        return context
    if not context.is_open:
        return context
    if context.name in _FLUSHED or context.name.startswith(_FLUSHED_FAMILIES):
        context.flush_buffers()
        return context
    if context.name in _MADE:
        return _made(context)
    with media.twin() as twin:
        assert twin.audio is not None
        return twin.audio.codec_context


def _from_the_first(media: Media, packet: Packet) -> bool:
    """Whether a packet is the track's first, or may be."""
    assert media.audio is not None
    at = media.seconds_of(packet, packet.stream)
    begin = media.audio.start_time
    return at is None or at <= (0.0 if begin is None else media.seconds(begin, media.audio))


def _skip(context: Any, packet: Packet) -> None:
    """Let a new decoder of Opus skip what only the track's beginning has.

    It drops the samples of the pre-skip from whatever is decoded first.
    """
    for _ in range(_LONGEST_SKIP):
        with suppress(av.error.FFmpegError, ValueError):
            frames = context.decode(packet)
            length_s = sum(frame.samples / frame.sample_rate for frame in frames)
            if length_s >= 0.9 * float((packet.duration or 0) * (packet.time_base or 0)) > 0:
                return


def _made(context: Any) -> Any:
    made: Any = CodecContext.create(context.name, "r")
    if context.extradata:
        made.extradata = context.extradata
    made.sample_rate = context.sample_rate
    made.layout = f"{context.channels} channels"
    made.thread_count, made.thread_type = context.thread_count, context.thread_type
    return made
