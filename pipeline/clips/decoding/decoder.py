"""The seam: what a decoder does, and the table of decoders.

Above it, `decode` plans which times of a file a request needs and judges what comes back; it knows
no library. Below it, a decoder opens one file and gives frames and samples at media times. Media
time is the file's presentation clock in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import ClassVar, Protocol, Self

import numpy as np

from pipeline.errors import UserError
from pipeline.storage import Location

# Name in `clips.decoder` → import path of the class.
DECODERS = {
    "cpu": "pipeline.clips.decoding.pyav:PyAVDecoder",
    "cuda": "pipeline.clips.decoding.pyav:PyAVCudaDecoder",
}

# A file, or the whole of one in memory.
Source = Location | bytes
Interval = tuple[float, float]  # of media time, in seconds
Region = tuple[int, int, int, int]  # x, y, width, height in pixels of the upright frame

# Frames and samples this far (in seconds) outside their track are not what was asked for.
OUTSIDE_S = 1.0


@dataclass(frozen=True)
class MediaInfo:
    """What a file offers.

    Attributes:
        start_s, end_s: the media time in which every track that can be decoded has something.
        fps: average rate of the video track, 0 where there is none or it is unknown.
        width, height: of the upright frame, in pixels as stored; 0 where there is no video.
        rotation: clockwise degrees by which the stored frame is turned to be upright.
        has_video, has_audio: whether something of it decodes.
        audio_rate: samples a second, 0 where there is no audio.
        channels: of audio.
    """

    start_s: float
    end_s: float
    fps: float
    width: int
    height: int
    rotation: int
    has_video: bool
    has_audio: bool
    audio_rate: int
    channels: int


@dataclass(frozen=True)
class View:
    """The square of the upright frame that a clip shows.

    The frame is cut to `region`, scaled to `short_side`, and cropped to size×size.

    Attributes:
        crop_x, crop_y: place of the crop in the free room, 0 to 1; 0.5 is the centre.
        region: None: the whole frame.
    """

    size: int
    short_side: int
    crop_x: float
    crop_y: float
    region: Region | None


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        start_s: media time at which it appears.
        end_s: media time of the next frame, or its own end where it is the last.
        targets: places, in the list of times asked for, at which it is displayed.
        rgb: scales and crops it: uint8 [size, size, 3] RGB. Valid until the next frame is taken.
    """

    start_s: float
    end_s: float
    targets: range
    rgb: Callable[[View], np.ndarray]


class Decoder(Protocol):
    """One open file. Used by one thread, for one group of clips after the other.

    Every method may raise `Reject` with the reason that fits. Other exceptions count as what they
    are for storage (missing, unreadable, time-out, too large), else as corrupt media.

    Attributes:
        on_gpu: whether decoding tasks must run where there is a GPU.
        has_video, has_audio: whether there is a track that can be decoded.
    """

    on_gpu: ClassVar[bool]
    has_video: bool
    has_audio: bool

    @classmethod
    def probe(cls, source: Source, timeout_s: float) -> MediaInfo:
        """What a file holds, proven by decoding a little of it. Runs without a GPU."""
        ...

    @classmethod
    def open(cls, source: Source, timeout_s: float) -> Self:
        """Open a file to decode clips of it."""
        ...

    def close(self) -> None: ...

    def read(self, video: Interval | None, audio: Interval | None, deadline: float) -> None:
        """Read what the next frames and samples need, both tracks in one sweep.

        Args:
            video, audio: what `frames` and `samples` will ask for lies in these intervals; None: a
                track that is not wanted.
            deadline: of time.monotonic().
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
    """The class of a decoder.

    Args:
        name: of `DECODERS`, or the import path of a class, ``package.module:Class``.

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
