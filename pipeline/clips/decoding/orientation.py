"""How a coded frame is turned and mirrored to be upright, as ffmpeg does it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


class Orientation(NamedTuple):
    """What makes a coded frame upright, in this order; all eight turns and mirrorings."""

    angle: int = 0  # degrees clockwise about the centre within the same frame, if it is odd
    transpose: bool = False  # swap rows and columns
    hflip: bool = False  # swap left and right
    vflip: bool = False  # swap top and bottom

    @classmethod
    def of(cls, frame: VideoFrame, known: Known | None = None) -> Orientation:
        """From the frame's display matrix, which its container or its codec gave it.

        Args:
            known: what earlier frames of the track had, by the angle that PyAV tells; added to.
        """
        if known is None:
            return cls._of(frame)
        angle = frame.rotation
        if angle not in known:
            known[angle] = cls._of(frame)
        return known[angle]

    @classmethod
    def _of(cls, frame: VideoFrame) -> Orientation:
        matrix = _matrix(frame)
        if matrix is None:
            return UPRIGHT
        # As ffmpeg's autorotate, in configure_input_video_filter of ffmpeg_filter.c.
        angle = _clockwise(matrix)
        if angle == 90:
            return cls(transpose=True, hflip=matrix[3] <= 0)
        if angle == 180:
            return cls(hflip=matrix[0] < 0, vflip=matrix[4] < 0)
        if angle == 270:
            return cls(transpose=True, hflip=matrix[3] < 0, vflip=True)
        if angle > 1:
            return cls(angle=angle)
        return cls(vflip=angle == 0 and matrix[4] < 0)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the upright frame."""
        return (height, width) if self.transpose else (width, height)

    def odd_filters(self) -> list[tuple[str, str]]:
        """The filters, names and arguments, that turn a coded frame by an odd angle, if any."""
        return [("rotate", f"{self.angle}*PI/180")] if self.angle else []

    def filters(self) -> list[tuple[str, str]]:
        """The filters, names and arguments, that make a coded frame upright."""
        steps = self.odd_filters()
        steps += [("transpose", "cclock_flip")] if self.transpose else []
        steps += [("hflip", "")] if self.hflip else []
        return steps + ([("vflip", "")] if self.vflip else [])

    def apply(self, coded: np.ndarray) -> np.ndarray:
        """An array [height, width, ...] upright; an odd angle is left to `odd_filters`."""
        upright = coded.swapaxes(0, 1) if self.transpose else coded
        upright = upright[:, ::-1] if self.hflip else upright
        return upright[::-1] if self.vflip else upright

    def coded_square(
        self, left: float, top: float, side: float, width: int, height: int
    ) -> tuple[float, float]:
        """Left and top, in the coded frame of this size, of a square of the upright frame."""
        upright_w, upright_h = self.size(width, height)
        left = upright_w - left - side if self.hflip else left
        top = upright_h - top - side if self.vflip else top
        return (top, left) if self.transpose else (left, top)


UPRIGHT = Orientation()
# A frame whose side data was looked at keeps itself alive until Python's garbage collector finds
# it, with all of its pixels. So one frame a file is looked at, not every one.
Known = dict[int, Orientation]


def rotation(frame: VideoFrame) -> int:
    """Whole degrees clockwise that the frame's display matrix turns it by, 0 to 359.

    A matrix that mirrors does so from top to bottom, after that turn.
    """
    matrix = _matrix(frame)
    return 0 if matrix is None else _clockwise(matrix)


_Matrix = tuple[int, ...]  # 9 numbers, row by row, in fixed point


def _matrix(frame: VideoFrame) -> _Matrix | None:
    """The frame's display matrix; None: it has none, or one that makes a line of it."""
    try:
        side_data: Any = frame.side_data
        data = side_data[Type.DISPLAYMATRIX]
    except KeyError:
        return None
    except ValueError:  # PyAV lists none of a frame's side data if it does not know one kind
        angle = math.radians(-frame.rotation)
        cos, sin = round(math.cos(angle) * 65536), round(math.sin(angle) * 65536)
        return cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30
    matrix = tuple(memoryview(data).cast("B").cast("i"))
    return matrix if any(matrix[0:4:3]) and any(matrix[1:5:3]) else None


def _clockwise(matrix: _Matrix) -> int:
    """As libavutil's av_display_rotation_get and ffmpeg's get_rotation, in 0 to 359."""
    across = math.hypot(matrix[0], matrix[3])
    down = math.hypot(matrix[1], matrix[4])
    return round(math.degrees(math.atan2(matrix[1] / down, matrix[0] / across))) % 360
