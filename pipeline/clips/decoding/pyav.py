"""The decoders that come with the package: PyAV, on the CPU or with NVIDIA's hardware decoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Self

import numpy as np
from av.video.frame import VideoFrame

from pipeline.clips.decoding.decoder import Decoder, Frame, Interval, MediaInfo, Source, View
from pipeline.clips.decoding.frames import displayed_frames
from pipeline.clips.decoding.index_entries import learn
from pipeline.clips.decoding.media import Media, ffmpeg_errors_as_rejects, opened
from pipeline.clips.decoding.packets import Span, read_packets
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
        self._span = Span([], [])
        self._audio: Interval = (0.0, 0.0)

    @classmethod
    def probe(cls, source: Source, timeout_s: float) -> MediaInfo:
        deadline = time.monotonic() + timeout_s
        with ffmpeg_errors_as_rejects(), opened(source, timeout_s, lean=False) as media:
            info = probe_media(media, deadline)
            reader, size = media.reader, media.container.size
            etag = reader.etag if reader else None
            info = replace(info, size=size if size > 0 else None, etag=etag)
            return replace(info, byte_index=learn(media, info, timeout_s))

    @classmethod
    def open(cls, source: Source, timeout_s: float) -> Self:
        return cls(opened(source, timeout_s, hardware=cls.on_gpu))

    def close(self) -> None:
        self._media.close()

    def read(self, video: Interval | None, audio: Interval | None, deadline: float) -> None:
        with ffmpeg_errors_as_rejects():
            self._span = read_packets(self._media, video, audio, deadline)
        self._audio = audio or (0.0, 0.0)

    def frames(self, times_s: Sequence[float], deadline: float) -> Iterator[Frame]:
        with ffmpeg_errors_as_rejects():
            for shown in displayed_frames(self._media, self._span.video, times_s, deadline):
                yield Frame(shown.start_s, shown.end_s, shown.targets, partial(_rgb, shown.frame))

    def samples(
        self, windows: Sequence[Interval], count: int, rate: int
    ) -> list[np.ndarray | None]:
        with ffmpeg_errors_as_rejects():
            stretches = decode_stretches(self._media, self._span.audio, *self._audio)
            return [resampled(stretches, start_s, count, rate) for start_s, _ in windows]

    def claims_video(self, time_s: float) -> bool:
        assert self._media.video is not None
        return self._media.claims(time_s, self._media.video)


class PyAVCudaDecoder(PyAVDecoder):
    """NVIDIA's hardware decoder for video in codecs that it knows; the CPU for everything else."""

    on_gpu: ClassVar[bool] = True


def _rgb(frame: VideoFrame, view: View) -> np.ndarray:
    with ffmpeg_errors_as_rejects():
        return to_rgb(frame, view)
