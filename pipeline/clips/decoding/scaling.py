"""Which pixels of a decoded frame a clip wants, and their one conversion to RGB.

Crop and region are cut before scaling: the crop is a pointer offset into the decoder's planes, so
pixels that nobody sees are neither scaled nor converted. Rotation is done on the small result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.filter import Graph
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
    scale = view.size / side
    if scale <= _SHRINKS:
        # Rounded to whole chroma samples, which is less than one pixel of the result.
        edge_x = min(max(align_x, round(side / align_x) * align_x), width)
        edge_y = min(max(align_y, round(side / align_y) * align_y), height)
        x0 = min(round(left / align_x) * align_x, (width - edge_x) // align_x * align_x)
        y0 = min(round(top / align_y) * align_y, (height - edge_y) // align_y * align_y)
        return Cut(x0, y0, edge_x, edge_y, view.size, view.size, 0, 0)
    # Enlarged, that would show: take more than needed, and cut the square out of the result, which
    # is made of even size (libswscale takes half as long again for an odd one).
    x0, y0 = int(left) // align_x * align_x, int(top) // align_y * align_y
    x1 = min(width, -(-int(np.ceil(left + side - 1e-6)) // align_x) * align_x)
    y1 = min(height, -(-int(np.ceil(top + side - 1e-6)) // align_y) * align_y)
    scaled_w = max(view.size, round((x1 - x0) * scale / 2) * 2)
    scaled_h = max(view.size, round((y1 - y0) * scale / 2) * 2)
    return Cut(
        x0,
        y0,
        x1 - x0,
        y1 - y0,
        scaled_w,
        scaled_h,
        min(scaled_w - view.size, round((left - x0) * scale)),
        min(scaled_h - view.size, round((top - y0) * scale)),
    )


def region_within(region: Region | None, width: int, height: int) -> Region:
    """The region cut to the frame, at least a pixel; the whole frame where there is none."""
    if region is None:
        return 0, 0, width, height
    x, y = min(max(region[0], 0), width - 1), min(max(region[1], 0), height - 1)
    return x, y, max(1, min(region[2], width - x)), max(1, min(region[3], height - y))


@dataclass(frozen=True)
class _Path:
    """A filter graph that crops, scales and converts, and what remains to be done to its output."""

    graph: Graph
    cut: Cut
    turns: int


# Paths of earlier clips, the oldest first. One thread decodes in a process.
_PATHS: dict[tuple[object, ...], _Path] = {}
_KEPT = 16


class Converter:
    """Frames of one track to RGB squares of one view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._key: tuple[object, ...] = ()
        self._path: _Path | None = None

    def convert(self, frame: VideoFrame) -> np.ndarray:
        """RGB uint8 [size, size, 3] of the frame, upright."""
        name, rotation = frame.format.name, frame.rotation
        key = (frame.width, frame.height, name, frame.colorspace, frame.color_range, rotation)
        if key != self._key:
            self._path = self._found(frame, (self._view, *key))
            self._key = key
        path, size = self._path, self._view.size
        assert path is not None
        path.graph.vpush(frame)
        scaled = path.graph.vpull().to_ndarray()
        top, left = path.cut.top, path.cut.left
        square = scaled[top : top + size, left : left + size]
        return np.rot90(square, path.turns) if path.turns else square

    def _found(self, frame: VideoFrame, key: tuple[object, ...]) -> _Path:
        """The path of an earlier clip of the same kind, which takes as long to build as a frame."""
        path = _PATHS.pop(key, None) or self._built(frame)
        _PATHS[key] = path
        if len(_PATHS) > _KEPT:
            del _PATHS[next(iter(_PATHS))]
        return path

    def _built(self, frame: VideoFrame) -> _Path:
        turns = round(frame.rotation / 90) % 4
        chroma = [c for c in frame.format.components if c.is_chroma]
        align_x = max([1, *(round(frame.width / c.width) for c in chroma if c.width)])
        align_y = max([1, *(round(frame.height / c.height) for c in chroma if c.height)])
        place = cut(self._view, frame.width, frame.height, turns, align_x, align_y)
        graph = Graph()
        graph.threads = 1
        buffer = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
            f":time_base=1/1000:pixel_aspect=1/1"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        chain = [buffer]
        if (place.width, place.height) != (frame.width, frame.height):
            chain.append(
                graph.add("crop", f"{place.width}:{place.height}:{place.x}:{place.y}:exact=1")
            )
        # Averaging areas is the faster filter, and as good where several pixels become one.
        flags = "area" if place.scaled_width <= _SHRINKS * place.width else "bilinear"
        chain.append(
            graph.add("scale", f"{place.scaled_width}:{place.scaled_height}:flags={flags}")
        )
        chain.append(graph.add("format", "rgb24"))
        chain.append(graph.add("buffersink"))
        graph.link_nodes(*chain)
        graph.configure()
        return _Path(graph, place, turns)
