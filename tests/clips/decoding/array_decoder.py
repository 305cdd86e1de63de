"""A decoder of a made-up format: NumPy's archives of frames and samples.

    np.savez(path, frames=uint8 [n, height, width, 3], fps=…, samples=float32 [m], rate=…)

It shows all that a decoder of one's own must do; `clips.decoder` names it by its import path.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar, Self

import numpy as np

from pipeline.clips.decoding.decoder import (
    OUTSIDE_S,
    Decoder,
    Frame,
    Interval,
    MediaFile,
    MediaInfo,
    Source,
    View,
)
from pipeline.clips.rejects import Reason, Reject

NAME = f"{__name__}:ArrayDecoder"


class ArrayDecoder(Decoder):
    on_gpu: ClassVar[bool] = False

    def __init__(self, source: Source) -> None:
        if isinstance(source, MediaFile):
            source = source.location
        data = source if isinstance(source, bytes) else source.read_bytes()
        try:
            arrays = np.load(io.BytesIO(data))
        except ValueError as error:
            raise Reject(Reason.NOT_MEDIA, str(error)) from error
        self.shown, self.fps = arrays["frames"], float(arrays["fps"])
        self.wave, self.rate = arrays["samples"], int(arrays["rate"])
        self.has_video, self.has_audio = len(self.shown) > 0, len(self.wave) > 0

    @classmethod
    def probe(cls, source: Source, timeout_s: float) -> MediaInfo:
        media = cls(source)
        height, width = media.shown.shape[1:3]
        return MediaInfo(
            start_s=0.0,
            end_s=min(len(media.shown) / media.fps, len(media.wave) / media.rate),
            fps=media.fps,
            width=width,
            height=height,
            rotation=0,
            has_video=media.has_video,
            has_audio=media.has_audio,
            audio_rate=media.rate,
            channels=1,
        )

    @classmethod
    def open(cls, source: Source, timeout_s: float) -> Self:
        return cls(source)

    def close(self) -> None:
        pass

    def read(self, video: Interval | None, audio: Interval | None, deadline: float) -> None:
        pass

    def frames(self, times_s: Sequence[float], deadline: float) -> Iterator[Frame]:
        for place, time_s in enumerate(times_s):
            number = min(max(int(time_s * self.fps + 1e-6), 0), len(self.shown) - 1)
            start_s, end_s = number / self.fps, (number + 1) / self.fps
            yield Frame(start_s, end_s, range(place, place + 1), partial(_seen, self.shown[number]))

    def samples(
        self, windows: Sequence[Interval], count: int, rate: int
    ) -> list[np.ndarray | None]:
        return [self._window(start_s, end_s, count, rate) for start_s, end_s in windows]

    def claims_video(self, time_s: float) -> bool:
        return 0 <= time_s <= len(self.shown) / self.fps

    def _window(self, start_s: float, end_s: float, count: int, rate: int) -> np.ndarray | None:
        if end_s < -OUTSIDE_S or start_s > len(self.wave) / self.rate + OUTSIDE_S:
            return None
        times = np.round((start_s + np.arange(count) / rate) * self.rate).astype(int)
        inside = (times >= 0) & (times < len(self.wave))
        return np.where(inside, self.wave[times.clip(0, len(self.wave) - 1)], 0).astype(np.float32)


def _seen(frame: np.ndarray, view: View) -> np.ndarray:
    """Nearest pixels of the view; regions are left to decoders that need them."""
    height, width = frame.shape[:2]
    side = min(height, width) * view.size / view.short_side
    steps = (np.arange(view.size) + 0.5) * side / view.size
    rows = (view.crop_y * (height - side) + steps).astype(int)
    columns = (view.crop_x * (width - side) + steps).astype(int)
    return frame[rows][:, columns]
