"""A decoder of the audio track whose result depends on the packets that it is given, only.

Flushing a decoder forgets its packets, but some keep more: AAC and Nellymoser go on with their
random numbers for noise, and decoders of speech keep the whole state of their filters.
"""

from __future__ import annotations

from typing import Any

from av.codec.context import CodecContext

from pipeline.clips.decoding.media import Media

# Decoders that a flush puts back to where they began (tests/clips/decoding/test_sound.py).
_FLUSHED = {"opus", "vorbis", "flac", "alac", "ac3", "eac3", "wmav1", "wmav2"} | {
    *("mp1float", "mp2float", "mp3float", "mp1", "mp2", "mp3")
}
_FLUSHED_FAMILIES = ("pcm_", "adpcm_")
# Decoders that need nothing from the container but the codec's header: a new one takes 0.1 ms.
_MADE = {"aac", "aac_latm"}


def fresh_decoder(media: Media) -> Any:
    """A decoder of the audio track as if nothing had been decoded with it."""
    assert media.audio is not None
    context: Any = media.audio.codec_context
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


def _made(context: Any) -> Any:
    made: Any = CodecContext.create(context.name, "r")
    if context.extradata:
        made.extradata = context.extradata
    made.sample_rate = context.sample_rate
    made.layout = f"{context.channels} channels"
    made.thread_count, made.thread_type = context.thread_count, context.thread_type
    return made
