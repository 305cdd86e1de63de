"""Learn a file's byte index from libavformat's own, while the file is being probed."""

from __future__ import annotations

import math
from contextlib import suppress

import av
import numpy as np
from av.stream import Stream

from pipeline.clips.decoding.byte_index import STEP_S, WHOLE, ByteIndex, head_and_tail
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo
from pipeline.clips.decoding.media import Media, opened

_LONGEST_GAP_S = 60.0  # an index with a longer gap has been read in part only
_LONGEST_S = 1 << 17  # of a file, to keep its index small
_SLACK = 1 << 17  # bytes by which tracks lie apart where the index knows one of them
_GUESS_S = 2.0  # how far a constant rate is trusted where there is no index


def learn(media: Media, info: MediaInfo, timeout_s: float) -> ByteIndex | None:
    """The byte index of a remote file that was probed; None where it is of no use.

    It opens the file again, as decoding will, from what probing has read: so it sees which bytes
    opening reads.
    """
    reader, source = media.reader, media.source
    length = info.end_s - info.start_s
    if reader is None or isinstance(source, bytes) or info.pieces > 1 or length > _LONGEST_S:
        return None
    if reader.size <= WHOLE:
        return None
    file = source if isinstance(source, MediaFile) else MediaFile(source)
    again = MediaFile(file.location, reader.size, reader.etag, info.pieces, reader.held)
    try:
        with opened(again, timeout_s) as lean:
            assert lean.reader is not None
            middle = (info.start_s + info.end_s) / 2
            with suppress(av.error.FFmpegError):
                lean.seek(lean.timestamp(middle, lean.tracks[0]), stream=lean.tracks[0])
            head, tail = head_and_tail(lean.reader.reads, reader.size)
            at_s = info.start_s + STEP_S * np.arange(math.ceil(length / STEP_S) + 1)
            first, stop = _positions(lean, at_s, reader.size)
    except Exception:  # nothing is lost but speed
        return None
    return ByteIndex(head, tail, info.start_s, first, stop)


def _positions(media: Media, at_s: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of these media times where reading begins, and where it ends; int64 [times]."""
    # Reading begins at a keyframe of the first track, and there in every other track.
    begin_s, tracks = at_s, []
    for track in media.tracks:
        tracks.append(_of_track(media, track, at_s, begin_s, size))
        if tracks[-1] is not None and track.type == "video":
            begin_s = np.minimum(at_s, tracks[-1][2])
    found = [track for track in tracks if track is not None]
    if media.floating or tracks[0] is None:
        # A constant rate; wrong guesses cost requests, nothing else.
        share = np.linspace(0, size, len(at_s))
        margin = max(_SLACK, _GUESS_S / STEP_S * size / len(at_s))
        found = [(share - margin, share + margin, at_s)]
    first = np.min([first for first, _, _ in found], axis=0).astype(np.int64)
    stop = np.max([stop for _, stop, _ in found], axis=0).astype(np.int64)
    slack = _SLACK if len(found) < len(tracks) else 0
    return np.maximum(first - slack, 0), np.minimum(stop + slack, size)


def _of_track(
    media: Media, track: Stream, at_s: np.ndarray, begin_s: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Of one track, that is read from `begin_s` on for what is shown at `at_s`; and when what is
    read first begins. None where libavformat has no whole index of it.
    """
    entries = track.index_entries
    if len(entries) < 2:
        return None
    rows = ((e.timestamp, e.pos, e.pos + e.size, e.is_keyframe) for e in entries)
    kind = np.dtype([("stamp", "i8"), ("first", "i8"), ("stop", "i8"), ("key", "?")])
    table = np.fromiter(rows, kind, len(entries))
    when = table["stamp"] * float(track.time_base or 1) - media.origin_s
    if np.diff(when, prepend=at_s[0], append=at_s[-1]).max() > _LONGEST_GAP_S:
        return None
    if when[-1] > 1.1 * at_s[-1] + _GUESS_S:
        return None  # AVI counts the bytes of plain samples
    keys = np.flatnonzero(table["key"]) if track.type == "video" else np.arange(len(table))
    if not len(keys):
        return None
    before = np.maximum(np.searchsorted(when[keys], begin_s, side="right") - 1, 0)
    after = np.searchsorted(when, at_s, side="right")
    # Where entries have no size, the data of one end where the next begins.
    ends = np.append(table["stop"], size)
    stop = ends[np.minimum(after, len(table))]
    return table["first"][keys][before], stop, when[keys][before]
