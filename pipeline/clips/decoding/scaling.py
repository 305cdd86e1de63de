"""Which pixels of a decoded frame a clip wants, and their one conversion to RGB.

Crop and region are cut before scaling: the crop is a pointer offset into the decoder's planes, so
pixels that nobody sees are neither scaled nor converted. Turning is done on the small result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from pipeline.clips.decoding.colour import PIXEL_FORMAT, Matrix, to_rgb8
from pipeline.clips.decoding.decoder import Region, View
from pipeline.clips.decoding.orientation import Known, Orientation

_SHRINKS = 1 / 1.5  # scale below which the source's pixels are finer than the result's


class Cut(NamedTuple):
    """Along one edge of the coded frame: what is cut, and where the square lies in that."""

    start: int
    length: int
    scaled: int  # length that it is scaled to
    offset: int  # of the square, after scaling


def cut(view: View, kind: FrameKind, align: tuple[int, int]) -> tuple[Cut, Cut]:
    """Place a view on a coded frame, along x and along y.

    Args:
        align: luma samples of one chroma sample, (x, y); the rectangle starts on a multiple.
    """
    width, height, orientation = kind.width, kind.height, kind.orientation
    x, y, w, h = region_within(view.region, *orientation.size(width, height))
    side = min(w, h) * min(1.0, view.size / view.short_side)
    left = x + min(max(view.crop_x, 0.0), 1.0) * (w - side)
    top = y + min(max(view.crop_y, 0.0), 1.0) * (h - side)
    left, top = orientation.coded_square(left, top, side, width, height)
    across = _cut_edge(left, side, width, align[0], view.size)
    return across, _cut_edge(top, side, height, align[1], view.size)


def _cut_edge(start: float, side: float, length: int, align: int, size: int) -> Cut:
    scale = size / side
    if scale <= _SHRINKS:
        # Rounded to whole chroma samples, which is less than one pixel of the result.
        taken = min(max(align, round(side / align) * align), length)
        first = min(round(start / align) * align, (length - taken) // align * align)
        return Cut(first, taken, size, 0)
    # Enlarged, that would show: take more than needed, and cut the square out of the result, which
    # is made of even size (libswscale takes half as long again for an odd one).
    first = int(start) // align * align
    last = min(length, -(-math.ceil(start + side - 1e-6) // align) * align)
    scaled = max(size, round((last - first) * scale / 2) * 2)
    return Cut(first, last - first, scaled, min(scaled - size, round((start - first) * scale)))


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
    matrix: Matrix
    color_range: int
    orientation: Orientation

    @classmethod
    def of(cls, frame: VideoFrame, known: Known | None = None) -> FrameKind:
        """See `Orientation.of`."""
        color, orientation = Matrix.of(frame), Orientation.of(frame, known)
        size = frame.width, frame.height
        return cls(*size, frame.format.name, color, int(frame.color_range), orientation)


def filter_graph(kind: FrameKind, steps: Sequence[tuple[str, str]]) -> Graph:
    """A chain of filters (names and arguments) for frames of one kind, on one thread."""
    graph = Graph()
    graph.threads = 1
    source = (
        f"video_size={kind.width}x{kind.height}:pix_fmt={kind.format}"
        f":time_base=1/1000:pixel_aspect=1/1"
        f":colorspace={kind.matrix.stands_in}:range={kind.color_range}"
    )
    # What the frames themselves say is overruled.
    other = kind.matrix.stands_in != kind.matrix.number
    told = [("setparams", f"colorspace={kind.matrix.stands_in}")] if other else []
    chain = [("buffer", source), *told, *steps, ("buffersink", "")]
    graph.link_nodes(*(graph.add(*node) for node in chain)).configure()
    return graph


def to_rgb(frame: VideoFrame, view: View, known: Known | None = None) -> np.ndarray:
    """RGB uint8 [size, size, 3] of a view of the frame, upright."""
    kind = FrameKind.of(frame, known)
    graph, x, y = _graph(view, kind)
    graph.vpush(frame)
    scaled = graph.vpull().to_ndarray()
    if kind.matrix.is_converted:
        scaled = to_rgb8(scaled, kind.matrix.number, kind.color_range)
    square = scaled[y.offset : y.offset + view.size, x.offset : x.offset + view.size]
    return kind.orientation.apply(square)


# Kept, since it takes as long to build as a frame; one thread decodes in a process.
@lru_cache(maxsize=16)
def _graph(view: View, kind: FrameKind) -> tuple[Graph, Cut, Cut]:
    """The graph that crops, scales and converts, and what it cuts along x and y."""
    chroma = [
        c for c in VideoFormat(kind.format, kind.width, kind.height).components if c.is_chroma
    ]
    align_x = max([1, *(round(kind.width / c.width) for c in chroma if c.width)])
    align_y = max([1, *(round(kind.height / c.height) for c in chroma if c.height)])
    x, y = cut(view, kind, (align_x, align_y))
    steps = kind.orientation.odd_filters()
    if (x.length, y.length) != (kind.width, kind.height):
        steps.append(("crop", f"{x.length}:{y.length}:{x.start}:{y.start}:exact=1"))
    # Averaging areas is the faster filter, and as good where several pixels become one.
    flags = "area" if x.scaled <= _SHRINKS * x.length else "bilinear"
    steps.append(("scale", f"{x.scaled}:{y.scaled}:flags={flags}"))
    steps.append(("format", PIXEL_FORMAT if kind.matrix.is_converted else "rgb24"))
    return filter_graph(kind, steps), x, y
