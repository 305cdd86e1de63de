"""Colour matrices (ITU-T H.273, 8.3) that libswscale does not convert.

A matrix that it knows stands in for some, the rest are converted here, at the small size that is
kept. Transfer functions and primaries stay as they are, as for all other video.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from pipeline.clips.rejects import Reason, Reject

# Their numbers in H.273, where 2 is "unspecified", which is taken for BT.601.
_GBR, _BT709, _UNSPECIFIED, _FCC, _BT470BG, _SMPTE170M, _SMPTE240M = 0, 1, 2, 4, 5, 6, 7
_YCGCO, _BT2020_NCL, _BT2020_CL, _CHROMA_NCL, _CHROMA_CL, _ICTCP = 8, 9, 10, 12, 13, 14
_UNCONVERTED = {11: "SMPTE ST 2085", 15: "IPT-PQ-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
_BY_PRIMARIES = {1: _BT709, 4: _FCC, 5: _BT470BG, 6: _SMPTE170M, 7: _SMPTE240M, 9: _BT2020_NCL}
_PQ = 16  # the transfer function SMPTE ST 2084
_FULL = 2  # libavutil's number of the range of all values

# As libswscale gives what `to_rgb8` takes: planes of 16 bits, as large as the luma plane.
PIXEL_FORMAT = "yuv444p16le"


class Matrix(NamedTuple):
    """How a frame becomes RGB."""

    number: int  # of the matrix that the frame names
    stands_in: int  # what libswscale is told instead
    is_converted: bool = False  # here, by `to_rgb8`; else libswscale does it

    @classmethod
    def of(cls, frame: VideoFrame) -> Matrix:
        """Raises Reject: UNSUPPORTED: nothing converts it."""
        number = int(frame.colorspace)
        if number in _KNOWN:
            return _KNOWN[number]
        if frame.format.is_rgb or len(frame.format.components) < 3:
            return cls(number, _UNSPECIFIED)  # there is nothing to convert
        if number == _YCGCO or (number == _ICTCP and int(frame.color_trc) == _PQ):
            return cls(number, _BT709, is_converted=True)
        if number == _BT2020_CL:
            return cls(number, _BT2020_NCL)  # alike but for saturated colours
        if number in (_CHROMA_NCL, _CHROMA_CL):
            return cls(number, _BY_PRIMARIES.get(int(frame.color_primaries), _UNSPECIFIED))
        if number == _ICTCP or number in _UNCONVERTED:
            name = _UNCONVERTED.get(number, "ICtCp without PQ")
            raise Reject(Reason.UNSUPPORTED, f"the colour matrix {name} ({number} in H.273)")
        return cls(number, _UNSPECIFIED)  # reserved


# What libswscale converts.
_KNOWN = {
    number: Matrix(number, number) for number in (*_BY_PRIMARIES.values(), _GBR, _UNSPECIFIED)
}


def unconverted(frame: VideoFrame) -> Reject | None:
    """Why frames like this one cannot become RGB, if so."""
    try:
        Matrix.of(frame)
    except Reject as reject:
        return reject
    return None


def to_rgb8(planes: np.ndarray, matrix: int, color_range: int) -> np.ndarray:
    """RGB uint8 [height, width, 3] of uint16 [height, width, 3] in `PIXEL_FORMAT`.

    Args:
        matrix: `Matrix.number`, of one that is converted here.
        color_range: as libavutil counts them.
    """
    values = planes.astype(np.float32) / 256
    if color_range == _FULL:
        luma, a, b = np.moveaxis((values - (0, 128, 128)) / 255, -1, 0)
    else:
        luma, a, b = np.moveaxis((values - (16, 128, 128)) / (219, 224, 224), -1, 0)
    if matrix == _YCGCO:
        rgb = np.stack([luma - a + b, luma + a, luma - a - b], axis=-1)
    else:
        rgb = _pq(_linear(np.stack([luma, a, b], axis=-1) @ _ICTCP_TO_LMS.T) @ _LMS_TO_RGB.T)
    return np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)


# ITU-R BT.2100-2, table 7: the inverses of its matrices, and table 4: the constants of PQ.
_ICTCP_TO_LMS = np.linalg.inv(
    np.array([[2048, 2048, 0], [6610, -13613, 7003], [17933, -17390, -543]]) / 4096
).astype(np.float32)
_LMS_TO_RGB = np.linalg.inv(
    np.array([[1688, 2146, 262], [683, 2951, 462], [99, 309, 3688]]) / 4096
).astype(np.float32)
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


def _linear(signal: np.ndarray) -> np.ndarray:
    root = np.clip(signal, 0, 1) ** (1 / _M2)
    return (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _pq(linear: np.ndarray) -> np.ndarray:
    power = np.clip(linear, 0, 1) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
