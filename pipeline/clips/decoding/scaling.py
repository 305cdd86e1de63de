"""Which pixels of a decoded frame a clip wants, and their one conversion to RGB.

Crop and region are cut before scaling: the crop is a pointer offset into the decoder's planes, so
pixels that nobody sees are neither scaled nor converted. Rotation is done on the small result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from pipeline.clips.decoding.decoder import Region, View

# Below this ratio of the result to its source, the source's pixels are finer than the result's.
_SHRINKS = 1 / 1.5


@dataclass(frozen=True)
class Cut:
    """A rectangle of the coded frame, the size it is scaled to, and the square within that."""

    x: int
    y: int
    width: int
    height: int
    scaled_width: int
    scaled_height: int
    left: int
    top: int


def cut(view: View, width: int, height: int, turns: int, align_x: int, align_y: int) -> Cut:
    """Place a view on a coded frame.

    Args:
        width, height: of the coded frame.
        turns: quarter turns counter-clockwise that make it upright.
        align_x, align_y: luma samples of one chroma sample; the rectangle starts on a multiple.
    """
    upright_w, upright_h = (height, width) if turns % 2 else (width, height)
    x, y, w, h = region_within(view.region, upright_w, upright_h)
    side = min(w, h) * min(1.0, view.size / view.short_side)
    left = x + min(max(view.crop_x, 0.0), 1.0) * (w - side)
    top = y + min(max(view.crop_y, 0.0), 1.0) * (h - side)
    # The same square in coded coordinates: the inverse of np.rot90(coded, turns).
    if turns == 1:
        left, top = width - top - side, left
    elif turns == 2:
        left, top = width - left - side, height - top - side
    elif turns == 3:
        left, top = top, height - left - side
    x, w, scaled_w, left = _edge(left, side, width, align_x, view.size)
    y, h, scaled_h, top = _edge(top, side, height, align_y, view.size)
    return Cut(x, y, w, h, scaled_w, scaled_h, left, top)


def _edge(start: float, side: float, length: int, align: int, size: int) -> tuple[int, ...]:
    """Along one edge of the frame: where to cut, how much, the size it is scaled to, and where the
    square starts in that."""
    scale = size / side
    if scale <= _SHRINKS:
        # Rounded to whole chroma samples, which is less than one pixel of the result.
        taken = min(max(align, round(side / align) * align), length)
        return min(round(start / align) * align, (length - taken) // align * align), taken, size, 0
    # Enlarged, that would show: take more than needed, and cut the square out of the result, which
    # is made of even size (libswscale takes half as long again for an odd one).
    first = int(start) // align * align
    last = min(length, -(-math.ceil(start + side - 1e-6) // align) * align)
    scaled = max(size, round((last - first) * scale / 2) * 2)
    return first, last - first, scaled, min(scaled - size, round((start - first) * scale))


def region_within(region: Region | None, width: int, height: int) -> Region:
    """The region cut to the frame, at least a pixel; the whole frame where there is none."""
    if region is None:
        return 0, 0, width, height
    x, y = min(max(region[0], 0), width - 1), min(max(region[1], 0), height - 1)
    return x, y, max(1, min(region[2], width - x)), max(1, min(region[3], height - y))


class FrameKind(NamedTuple):
    """All of a frame that a filter graph depends on."""

    width: int
    height: int
    format: str
    colorspace: int
    color_range: int
    rotation: int  # degrees counter-clockwise that make it upright

    @classmethod
    def of(cls, frame: VideoFrame) -> FrameKind:
        color = int(frame.colorspace), int(frame.color_range)
        return cls(frame.width, frame.height, frame.format.name, *color, frame.rotation)

    @property
    def turns(self) -> int:
        """Quarter turns counter-clockwise that make it upright."""
        return round(self.rotation / 90) % 4


def filter_graph(kind: FrameKind, steps: Sequence[tuple[str, str]]) -> Graph:
    """A chain of filters (names and arguments) for frames of one kind, on one thread."""
    graph = Graph()
    graph.threads = 1
    source = (
        f"video_size={kind.width}x{kind.height}:pix_fmt={kind.format}"
        f":time_base=1/1000:pixel_aspect=1/1"
        f":colorspace={kind.colorspace}:range={kind.color_range}"
    )
    chain = [("buffer", source), *steps, ("buffersink", "")]
    graph.link_nodes(*(graph.add(*node) for node in chain)).configure()
    return graph


def to_rgb(frame: VideoFrame, view: View) -> np.ndarray:
    """RGB uint8 [size, size, 3] of a view of the frame, upright."""
    kind = FrameKind.of(frame)
    graph, place = _graph(view, kind)
    graph.vpush(frame)
    scaled = graph.vpull().to_ndarray()
    square = scaled[place.top : place.top + view.size, place.left : place.left + view.size]
    return np.rot90(square, kind.turns) if kind.turns else square


# Kept for later clips of the same kind: it takes as long to build as a frame. One thread decodes in
# a process.
@lru_cache(maxsize=16)
def _graph(view: View, kind: FrameKind) -> tuple[Graph, Cut]:
    """What crops, scales and converts, and what it cuts."""
    chroma = [
        c for c in VideoFormat(kind.format, kind.width, kind.height).components if c.is_chroma
    ]
    align_x = max([1, *(round(kind.width / c.width) for c in chroma if c.width)])
    align_y = max([1, *(round(kind.height / c.height) for c in chroma if c.height)])
    place = cut(view, kind.width, kind.height, kind.turns, align_x, align_y)
    steps = []
    if (place.width, place.height) != (kind.width, kind.height):
        steps.append(("crop", f"{place.width}:{place.height}:{place.x}:{place.y}:exact=1"))
    # Averaging areas is the faster filter, and as good where several pixels become one.
    flags = "area" if place.scaled_width <= _SHRINKS * place.width else "bilinear"
    steps.append(("scale", f"{place.scaled_width}:{place.scaled_height}:flags={flags}"))
    steps.append(("format", "rgb24"))
    return filter_graph(kind, steps), place
