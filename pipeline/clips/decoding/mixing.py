"""Audio frames of any layout and sample format as one channel of float32.

The mix is the plain mean of all channels, for every codec and layout. It cannot clip, equal
channels keep their level, and it needs no names of channels: half of the odd files name none, or
wrong ones. (A downmix by position, ITU-R BS.775, weighs speakers for listening and needs their
places.) Ambisonic sound is no set of speakers: there the first channel W, which hears all
directions, is the mono signal by itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream

_DTYPES = {
    "u8": np.uint8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "flt": np.float32,
    "dbl": np.float64,
}

Kind = tuple[str, int, int, bool]  # sample format, rate, channels, ambisonic


def make_layout_readable(stream: AudioStream) -> None:
    """Let a track's number of channels be read more than once. Call it once, before decoding.

    PyAV's layouts free the list of channels of a custom layout, which is the codec context's, too:
    the second look at one ends the process. Here the first look takes the list over, and the
    context gets a layout without one.
    """
    context: Any = stream.codec_context
    if context is None:
        return
    layout = context.layout
    if layout.nb_channels:
        name = layout.name
        plain = _ambisonic(name) and "+" not in name
        context.layout = name if plain else f"{layout.nb_channels} channels"


def guarded(frames: list[Any]) -> list[Any]:
    """Frames just decoded, safe to be let go of.

    A frame and its layout would both free the channels of a decoder's own custom layout.
    """
    for frame in frames:
        if isinstance(frame, AudioFrame) and "(" in frame.layout.name:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))
    return frames


def kind_of(frame: AudioFrame) -> Kind:
    """What frames must share to be mixed together."""
    layout = frame.layout
    ambisonic = _ambisonic(layout.name)
    return frame.format.name, frame.sample_rate, layout.nb_channels, ambisonic


def mixed(frames: Sequence[AudioFrame], kind: Kind) -> np.ndarray:
    """Mono float32 [samples] of frames of one kind; full scale is ±1, lossy codecs overshoot it."""
    format_name, _, channels, ambisonic = kind
    dtype = np.dtype(_DTYPES[format_name.removesuffix("p")])
    heard = 1 if ambisonic else channels
    mono: np.ndarray
    if format_name.endswith("p"):
        mono = _joined(frames, 0, dtype, 1).astype(np.float32)
        for channel in range(1, heard):
            _add(mono, _joined(frames, channel, dtype, 1))
    else:
        samples = _joined(frames, 0, dtype, channels).reshape(-1, channels)
        mono = samples[:, 0].astype(np.float32)
        for channel in range(1, heard):
            _add(mono, samples[:, channel])
    if dtype == np.uint8:
        mono -= 128 * heard
    full_scale = 1.0 if dtype.kind == "f" else 2.0 ** (8 * dtype.itemsize - 1)
    mono *= np.float32(1 / (full_scale * heard))
    return mono


def _joined(
    frames: Sequence[AudioFrame], plane: int, dtype: np.dtype, interleaved: int
) -> np.ndarray:
    """One plane of all frames."""
    # `AudioFrame.planes` counts them by looking for the end of a list that has none past 8.
    return np.concatenate(
        [
            np.frombuffer(cast(Any, AudioPlane(frame, plane)), dtype, frame.samples * interleaved)
            for frame in frames
        ]
    )


def _add(mono: np.ndarray, channel: np.ndarray) -> None:
    with np.errstate(all="ignore"):  # damaged floating-point audio holds anything
        np.add(mono, channel, out=mono, casting="unsafe")


def _ambisonic(layout: str) -> bool:
    return layout.startswith("ambisonic")
