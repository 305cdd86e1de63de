"""The pieces of a file whose clock starts anew, on one clock: each follows the one before.

A clip lies in one piece, the one that holds its middle.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from pipeline.clips.decoding.decoder import MediaFile, MediaInfo, Source
from pipeline.clips.decoding.media import Media, Part, opened
from pipeline.clips.decoding.pieces import Bytes, has_pieces, piece_starts
from pipeline.clips.decoding.probe import probe_media
from pipeline.clips.decoding.ranges import RangeReader
from pipeline.clips.rejects import Reject
from pipeline.storage import Location


@dataclass(frozen=True)
class Layout:
    """The parts of a file and what each holds, on the file's clock."""

    parts: tuple[Part, ...]
    infos: tuple[MediaInfo, ...]
    pieces: int  # also those of which nothing can be decoded, which have no part
    lost: tuple[tuple[str, Reject], ...]  # what of these is told

    @property
    def breaks_s(self) -> tuple[float, ...]:
        """Media times at which the parts behind the first begin."""
        return tuple(info.start_s for info in self.infos[1:])

    def part_at(self, time_s: float) -> Part:
        return self.parts[bisect_right(self.breaks_s, time_s)]

    @property
    def info(self) -> MediaInfo:
        """What the whole file holds; where parts differ, the first that has a modality tells."""
        video = next((info for info in self.infos if info.has_video), self.infos[0])
        audio = next((info for info in self.infos if info.has_audio), self.infos[0])
        return replace(
            video,
            start_s=self.infos[0].start_s,
            end_s=self.infos[-1].end_s,
            has_audio=audio.has_audio,
            audio_rate=audio.audio_rate,
            channels=audio.channels,
            pieces=self.pieces,
            unused_video_s=sum(info.unused_video_s for info in self.infos),
            unused_audio_s=sum(info.unused_audio_s for info in self.infos),
            lost=tuple(
                dict([*self.lost, *(each for info in self.infos for each in info.lost)]).items()
            ),
        )


def layout_of(media: Media, source: Source, timeout_s: float) -> Layout | None:
    """The layout of an open file, or None where it is of one piece, as nearly all are.

    Raises:
        Reject: no piece can be decoded.
    """
    name = media.container.format.name
    if isinstance(source, bytes) or not has_pieces(name):
        return None
    if isinstance(source, MediaFile):
        if source.pieces == 1:
            return None
        source = source.location
    found = _found(source, media.container.size, name, timeout_s)
    return found if found.pieces > 1 else None


def opened_at(source: Source, timeout_s: float, time_s: float, hardware: bool) -> Media:
    """Open a file to decode there; see `media.opened`."""
    media = opened(source, timeout_s, hardware=hardware)
    try:
        layout = layout_of(media, source, timeout_s)
    except BaseException:
        media.close()
        raise
    if layout is None:
        return media
    media.close()
    return opened(source, timeout_s, hardware=hardware, part=layout.part_at(time_s))


# Kept, since to read a file for it takes longer than to decode a clip.
@lru_cache(maxsize=256)
def _found(place: Location, size: int, format_name: str, timeout_s: float) -> Layout:
    file: Bytes = open(place.uri, "rb") if place.is_local else RangeReader(place)  # noqa: SIM115
    with closing(file):
        starts = piece_starts(file, size, format_name)
    parts: list[Part] = []
    infos: list[MediaInfo] = []
    lost: list[tuple[str, Reject]] = []
    for begin, end in pairwise([*starts, size] if len(starts) > 1 else []):
        try:
            with opened(place, timeout_s, lean=False, part=Part(begin, end)) as media:
                info = probe_media(media, time.monotonic() + timeout_s)
        except Reject as reject:
            what = f"the piece of bytes {begin:,} to {end:,}: {reject.detail or reject.reason}"
            lost += [(modality, Reject(reject.reason, what)) for modality in ("video", "audio")]
            continue
        shift_s = infos[-1].end_s - info.start_s if infos else 0.0
        infos.append(replace(info, start_s=info.start_s + shift_s, end_s=info.end_s + shift_s))
        parts.append(Part(begin, end, shift_s))
    if lost and not parts:
        raise lost[0][1]
    has = {"video": any(i.has_video for i in infos), "audio": any(i.has_audio for i in infos)}
    told = tuple(each for each in lost if has[each[0]])
    return Layout(tuple(parts), tuple(infos), len(starts), told)
