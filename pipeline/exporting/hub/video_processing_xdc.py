"""Frames → input of a video encoder of xdc-ray, for `transformers.AutoVideoProcessor`.

Frames are picked, cut and scaled as the decoder of xdc-ray does when it embeds clips.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, FeatureExtractionMixin

_SHRINKS = 1 / 1.5  # scale from which areas are averaged, instead of interpolating
# The decoder cuts on whole chroma samples. Nearly all video has one for 2×2 pixels.
_CHROMA = 2


class XdcVideoProcessor(FeatureExtractionMixin):
    """Picks the frames of a clip, scales the short side, cuts the centre and normalises.

    Args:
        frames: of a clip.
        fps: frames a second of a clip.
        size: side of the square that the encoder takes, in pixels.
        short_side: to which frames are scaled before the centre is cut.
        mean, std: of each colour, RGB in [0, 1].
        region: [x, y, width, height] in pixels of the frame, cut before all else.
        facts: all else in preprocessor_config.json.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers sets it on instances)

    def __init__(
        self,
        frames: int = 8,
        fps: float = 30.0,
        size: int = 224,
        short_side: int = 256,
        mean: Any = (0.0, 0.0, 0.0),
        std: Any = (1.0, 1.0, 1.0),
        region: Any = None,
        **facts: Any,
    ) -> None:
        super().__init__(**facts)
        self.frames = frames
        self.fps = fps
        self.size = size
        self.short_side = short_side
        self.mean = list(mean)
        self.std = list(std)
        self.region = region

    def __call__(
        self,
        videos: Any,
        fps: float | None = None,
        do_resize: bool | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Clips → ``pixel_values`` float32 [B, 3, frames, size, size].

        Args:
            videos: one clip: uint8 [T, H, W, 3], RGB, or a list of frames (arrays, tensors or
                pictures of PIL); or several: uint8 [B, T, H, W, 3], or a list of clips. The clip
                is taken from the middle. Where frames are missing, the first or the last stands.
            fps: frames a second of `videos`; None: those of the encoder.
            do_resize: scale and cut; None: only frames that are not size × size already.
            return_tensors: ``pt`` or ``np``.

        Raises:
            ValueError: no frames, or of another type or shape.
        """
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        clips = []
        for video_THWC in _clips(videos):
            x = video_THWC[self._picked(len(video_THWC), fps or self.fps)]
            x = self._cut(x, do_resize).float() / 255
            clips.append(((x - mean.to(x.device)) / std.to(x.device)).permute(3, 0, 1, 2))
        value = torch.stack(clips)
        return BatchFeature({"pixel_values": value.numpy() if return_tensors == "np" else value})

    def _picked(self, count: int, fps: float) -> list[int]:
        """Which of `count` frames are shown at the times of the clip's frames."""
        times = (
            count / fps / 2 + (i - (self.frames - 1) / 2) / self.fps for i in range(self.frames)
        )
        return [min(max(math.floor(time * fps + 1e-6), 0), count - 1) for time in times]

    def _cut(self, frames_THWC: Tensor, do_resize: bool | None) -> Tensor:
        """The square that the encoder sees, [T, size, size, 3] of 0 to 255."""
        height, width = frames_THWC.shape[1:3]
        is_square = (height, width) == (self.size, self.size)
        if do_resize is False and not is_square:
            raise ValueError(
                f"frames are {height}×{width}, but this encoder takes {self.size}×{self.size}: "
                "leave out do_resize=False"
            )
        if is_square and not do_resize:
            return frames_THWC
        x, y, w, h = _within(self.region, width, height)
        side = min(w, h) * min(1.0, self.size / self.short_side)
        across = _edge(x + (w - side) / 2, side, width, self.size)
        down = _edge(y + (h - side) / 2, side, height, self.size)
        taken = frames_THWC[:, down.part, across.part].permute(0, 3, 1, 2).float()
        averages = across.scaled <= _SHRINKS * across.length
        columns = across.weights(averages).to(taken)
        rows = down.weights(averages).to(taken)
        # Whole numbers, as of a decoder.
        return (rows @ taken @ columns.T).round().clamp(0, 255).permute(0, 2, 3, 1)


class Edge(NamedTuple):
    """Along one edge of a frame: what is cut, and where the square lies in that."""

    start: int
    length: int
    scaled: int  # length that it is scaled to
    offset: int  # of the square, after scaling
    size: int  # of the square

    @property
    def part(self) -> slice:
        return slice(self.start, self.start + self.length)

    def weights(self, averages: bool) -> Tensor:
        """How much each pixel of the cut counts in each of the square, float64 [size, length]."""
        scale = self.length / self.scaled
        pixel = torch.arange(self.length, dtype=torch.float64)
        first = (torch.arange(self.size, dtype=torch.float64)[:, None] + self.offset) * scale
        if averages:
            end = torch.minimum(pixel + 1, first + scale)
            weight = (end - torch.maximum(pixel, first)).clamp(min=0)
        else:
            distance = (pixel + 0.5 - (first + scale / 2)).abs()
            weight = (1 - distance / max(scale, 1.0)).clamp(min=0)
        return weight / weight.sum(1, keepdim=True)


def _edge(start: float, side: float, length: int, size: int) -> Edge:
    """Where the square from `start`, `side` long, lies on an edge of `length` pixels."""
    scale = size / side
    if scale <= _SHRINKS:
        taken = min(max(_CHROMA, round(side / _CHROMA) * _CHROMA), length)
        first = min(round(start / _CHROMA) * _CHROMA, (length - taken) // _CHROMA * _CHROMA)
        return Edge(first, taken, size, 0, size)
    first = int(start) // _CHROMA * _CHROMA
    last = min(length, -(-math.ceil(start + side - 1e-6) // _CHROMA) * _CHROMA)
    scaled = max(size, round((last - first) * scale / 2) * 2)
    return Edge(
        first, last - first, scaled, min(scaled - size, round((start - first) * scale)), size
    )


def _within(region: Any, width: int, height: int) -> tuple[int, int, int, int]:
    """The region cut to the frame; the whole frame where there is none."""
    if region is None:
        return 0, 0, width, height
    x, y = min(max(region[0], 0), width - 1), min(max(region[1], 0), height - 1)
    return x, y, max(1, min(region[2], width - x)), max(1, min(region[3], height - y))


def _clips(videos: Any) -> list[Tensor]:
    """Each clip of a batch, or the one that was given, uint8 [T, H, W, 3]."""
    if isinstance(videos, list | tuple) and len(videos):
        several = isinstance(videos[0], list | tuple) or np.ndim(videos[0]) == 4
        return [_frames(clip) for clip in videos] if several else [_frames(videos)]
    if np.ndim(videos) == 5:
        return [_frames(clip) for clip in videos]
    return [_frames(videos)]


def _frames(clip: Any) -> Tensor:
    if isinstance(clip, list | tuple) and len(clip):
        clip = torch.stack([_tensor(frame) for frame in clip])
    frames = _tensor(clip)
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        kind = str(frames.dtype).removeprefix("torch.")
        raise ValueError(
            f"frames are {kind} {list(frames.shape)}, not uint8 [T, H, W, 3], RGB: permute "
            "[T, 3, H, W] with (0, 2, 3, 1), and give values from 0 to 255"
        )
    return frames


def _tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.tensor(np.asarray(array))
