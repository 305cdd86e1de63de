"""The interface of a decoder, and the table of decoders.

`decode` plans which times of a file a request needs and judges the results. A decoder opens one
file and gives frames and samples at media times: seconds of the file's presentation clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from pipeline.clips.decoding.byte_index import ByteIndex
from pipeline.clips.rejects import Reject
from pipeline.errors import UserError
from pipeline.storage import Location

# Name in `clips.decoder` → import path of the class.
DECODERS = {
    "cpu": "pipeline.clips.decoding.pyav:PyAVDecoder",
    "cuda": "pipeline.clips.decoding.pyav:PyAVCudaDecoder",
}


@dataclass(frozen=True)
class MediaFile:
    """A file and what is known of it before it is opened."""

    location: Location
    size: int | None = None  # in bytes, when it was indexed; another size now is a reject
    etag: str | None = None  # of the object, when it was indexed; likewise
    pieces: int | None = None  # clocks that follow each other in it; None: to be found out
    fetched: tuple[tuple[int, bytes], ...] = ()  # offset and bytes of what has been read already

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> MediaFile:
        """From a row of the clips table."""
        return cls(Location.of(row["uri"]), row["size"], row["etag"], row["pieces"])


Source = Location | MediaFile | bytes  # a file, or the whole of one in memory
Interval = tuple[float, float]  # of media time, in seconds
Region = tuple[int, int, int, int]  # x, y, width, height in pixels of the upright frame

OUTSIDE_S = 1.0  # frames and samples this far outside their track are not what was asked for


@dataclass(frozen=True)
class MediaInfo:
    """What a file offers."""

    start_s: float  # first media time at which every track that can be decoded has something
    end_s: float  # and the last
    fps: float  # average rate of the video track, 0 where there is none or it is unknown
    width: int  # of the upright frame, in pixels as stored; 0 where there is no video
    height: int
    rotation: int  # clockwise degrees that its display matrix turns the stored frame by
    has_video: bool  # whether something of it decodes
    has_audio: bool
    audio_rate: int  # samples a second, 0 where there is no audio
    channels: int  # of audio
    size: int | None = None  # of the file, in bytes
    etag: str | None = field(default=None, compare=False)  # of the object; None on disks
    pieces: int = 1  # clocks that follow each other in it
    # Tracks that are there and cannot be decoded, by modality.
    lost: tuple[tuple[str, Reject], ...] = ()
    unused_video_s: float = 0.0  # seconds of video outside [start_s, end_s]
    unused_audio_s: float = 0.0  # and of audio
    # Where its seconds lie; None on disks, and where it is not known or not of use.
    byte_index: ByteIndex | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class View:
    """The square that a clip shows: the upright frame is cut to `region`, scaled, and cropped."""

    size: int  # side of the crop, in pixels
    short_side: int  # to which the region is scaled
    crop_x: float  # place of the crop in the free room, 0 to 1; 0.5 is the centre
    crop_y: float
    region: Region | None  # None: the whole frame


@dataclass(frozen=True)
class Frame:
    """One decoded frame; `rgb` scales and crops it until the next frame is taken."""

    start_s: float  # media time at which it appears
    end_s: float  # media time of the next frame, or its own end where it is the last
    targets: range  # places, in the list of times asked for, at which it is displayed
    rgb: Callable[[View], np.ndarray]  # uint8 [size, size, 3] RGB


class Decoder(Protocol):
    """One open file. Used by one thread, for one group of clips after the other.

    Every method may raise `Reject` with the reason that fits. Other exceptions count as what they
    are for storage (missing, unreadable, time-out, too large), else as corrupt media.
    """

    on_gpu: ClassVar[bool]  # whether decoding tasks must run where there is a GPU
    has_video: bool  # whether there is a track that can be decoded
    has_audio: bool
    breaks_s: Sequence[float] = ()  # media times at which the file's clock starts anew, if any

    @classmethod
    def probe(cls, source: Source, timeout_s: float) -> MediaInfo:
        """What a file holds, proven by decoding a little of it. Runs without a GPU."""
        ...

    @classmethod
    def open(cls, source: Source, timeout_s: float) -> Self:
        """Open a file to decode clips of it."""
        ...

    def close(self) -> None: ...

    def enter(self, time_s: float) -> None:
        """Go where the file holds a media time, which may be beyond one of `breaks_s`."""
        return

    def read(self, video: Interval | None, audio: Interval | None, deadline: float) -> None:
        """Read both tracks in one sweep, in the intervals that `frames` and `samples` will ask for.

        None: a track that is not wanted. The deadline is one of time.monotonic().
        """
        ...

    def frames(self, times_s: Sequence[float], deadline: float) -> Iterator[Frame]:
        """The frames displayed at these sorted media times, each frame once and in order.

        Times before the first frame get the first, times after the last get the last. Times that
        no frame names could not be decoded.
        """
        ...

    def samples(
        self, windows: Sequence[Interval], count: int, rate: int
    ) -> list[np.ndarray | None]:
        """For each window its first `count` samples at `rate`: mono float32 [count], -1 to 1.

        Zero where the track has none. None: it has none within `OUTSIDE_S` of the window.
        """
        ...

    def claims_video(self, time_s: float) -> bool:
        """Whether the file's header says that there is video at this time."""
        ...


@cache
def load_decoder(name: str) -> type[Decoder]:
    """The decoder of this name in `DECODERS`, or of an import path, ``package.module:Class``.

    Raises:
        UserError: there is no such decoder, or it cannot be imported.
    """
    module, colon, attribute = DECODERS.get(name, name).partition(":")
    if not colon:
        raise UserError(
            f"there is no decoder {name!r}; set clips.decoder to one of {', '.join(DECODERS)}, or "
            "to the import path of a class of yours, package.module:Class"
        )
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"clips.decoder={name} cannot be imported: {error}") from error
