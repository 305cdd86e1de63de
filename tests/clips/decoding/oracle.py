"""What a file shows at a time, by decoding all of it from its first packet, with PyAV alone."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import av
import numpy as np

from pipeline.clips.decoding.decoder import View
from pipeline.clips.decoding.scaling import to_rgb

SIZE = 32
VIEW = View(SIZE, SIZE, 0.5, 0.5, None)
TOLERANCE_S = 0.002


class LinearVideo:
    """Every picture of a file's track and when it is shown, in seconds of the file's clock."""

    def __init__(self, path: Path | str, index: int) -> None:
        shown: list[tuple[float | None, np.ndarray]] = []
        stamps: list[int] = []
        chunks: list[int] = []  # with which frames came, less those that a decoder holds back
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams[index]
            stream.codec_context.thread_count = 1
            floating = container.format.name in ("mpegts", "mpeg", "vob")
            origin_s = (container.start_time or 0) / av.time_base if floating else 0.0
            tick_s = float(stream.time_base)
            self.is_avi = container.format.name == "avi"
            fed, held_back = 0, None
            for packet in container.demux(stream):
                if packet.dts is not None and packet.size and not packet.is_discard:
                    stamps.append(packet.dts)
                fed += packet.size > 8  # shorter ones are placeholders
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                for frame in frames:
                    at = None if frame.pts is None else frame.pts * tick_s - origin_s
                    if self.is_avi:
                        held_back = fed - 1 if held_back is None else held_back
                        came = packet.dts if packet.dts is not None else chunks[-1] + 1 + held_back
                        chunks.append(came - held_back)
                    shown.append((at, to_rgb(frame, VIEW).copy()))
        times = [at for at, _ in shown]
        known = [at for at in times if at is not None]
        if self.is_avi:
            # Its n-th chunk is shown at n / fps.
            times = [at if at is None else at * tick_s for at in chunks]
        elif known != sorted(known):
            # The container has no stamps of its own for frames that are stored in another order.
            times = [stamp * tick_s - origin_s for stamp in sorted(stamps)][: len(shown)]
        pairs = [(at, rgb) for at, (_, rgb) in zip(times, shown) if at is not None]
        self.times = [at for at, _ in pairs]
        self.pictures = [rgb for _, rgb in pairs]

    def at(self, time_s: float) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]: the last picture at or before a time, else the first."""
        return self.pictures[max(0, bisect_right(self.times, time_s + TOLERANCE_S) - 1)]
