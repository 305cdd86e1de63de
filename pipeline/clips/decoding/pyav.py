"""The decoders that come with the package: PyAV, on the CPU or with NVIDIA's hardware decoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar, Self

import numpy as np
from av.video.frame import VideoFrame

from pipeline.clips.decoding.decoder import Decoder, Frame, Interval, MediaInfo, Source, View
from pipeline.clips.decoding.frames import displayed_frames
from pipeline.clips.decoding.media import Media, ffmpeg_errors_as_rejects, opened
from pipeline.clips.decoding.packets import Span, audio_of, read_packets
from pipeline.clips.decoding.probe import probe_media
from pipeline.clips.decoding.samples import decode_stretches, resampled
from pipeline.clips.decoding.scaling import to_rgb


class PyAVDecoder(Decoder):
    """libavcodec on one CPU thread."""

    on_gpu: ClassVar[bool] = False

    def __init__(self, media: Media) -> None:
        self.has_video = media.video is not None
        self.has_audio = media.audio is not None
        self._media = media
        self._span = Span([], [], False)

    @classmethod
    def probe(cls, source: Source, timeout_s: float) -> MediaInfo:
        deadline = time.monotonic() + timeout_s
        with ffmpeg_errors_as_rejects(), opened(source, timeout_s, lean=False) as media:
            return probe_media(media, deadline)

    @classmethod
    def open(cls, source: Source, timeout_s: float) -> Self:
        return cls(opened(source, timeout_s, hardware=cls.on_gpu))

    def close(self) -> None:
        self._media.close()

    def read(self, video: Interval | None, audio: Interval | None, deadline: float) -> None:
        with ffmpeg_errors_as_rejects():
            self._span = read_packets(self._media, video, audio, deadline)

    def frames(self, times_s: Sequence[float], deadline: float) -> Iterator[Frame]:
        with ffmpeg_errors_as_rejects():
            for shown in displayed_frames(self._media, self._span, times_s, deadline):
                yield Frame(shown.start_s, shown.end_s, shown.targets, partial(_rgb, shown.frame))

    def samples(
        self, windows: Sequence[Interval], count: int, rate: int
    ) -> list[np.ndarray | None]:
        with ffmpeg_errors_as_rejects():
            return [self._samples(window, count, rate) for window in windows]

    def _samples(self, window: Interval, count: int, rate: int) -> np.ndarray | None:
        packets = audio_of(self._media, self._span.audio, window)
        stretches = decode_stretches(self._media, packets, *window)
        return resampled(stretches, window[0], count, rate)

    def claims_video(self, time_s: float) -> bool:
        assert self._media.video is not None
        track = self._media.video
        begin_s = self._media.seconds(track.start_time or 0, track)
        return begin_s <= time_s <= (self._media.stated_end_s(track) or begin_s)


class PyAVCudaDecoder(PyAVDecoder):
    """NVIDIA's hardware decoder for video in codecs that it knows; the CPU for everything else."""

    on_gpu: ClassVar[bool] = True


def _rgb(frame: VideoFrame, view: View) -> np.ndarray:
    with ffmpeg_errors_as_rejects():
        return to_rgb(frame, view)
