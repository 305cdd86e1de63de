"""The decoders that come with the package: PyAV, on the CPU or with NVIDIA's hardware decoder."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Self

import numpy as np
from av.video.frame import VideoFrame

from pipeline.clips.decoding.decoder import Decoder, Frame, Interval, MediaInfo, Source, View
from pipeline.clips.decoding.frames import displayed_frames
from pipeline.clips.decoding.index_entries import learn
from pipeline.clips.decoding.layout import Layout, layout_of
from pipeline.clips.decoding.media import Media, ffmpeg_errors_as_rejects, opened
from pipeline.clips.decoding.orientation import Known
from pipeline.clips.decoding.packets import Span, audio_of, read_packets
from pipeline.clips.decoding.probe import probe_media
from pipeline.clips.decoding.samples import decode_stretches, resampled
from pipeline.clips.decoding.scaling import to_rgb

_Opener = Callable[..., Media]


class PyAVDecoder(Decoder):
    """libavcodec on one CPU thread."""

    on_gpu: ClassVar[bool] = False

    def __init__(self, media: Media, layout: Layout | None, part_opened: _Opener) -> None:
        self.has_video = layout.info.has_video if layout else media.video is not None
        self.has_audio = layout.info.has_audio if layout else media.audio is not None
        self.breaks_s = layout.breaks_s if layout else ()
        self._media, self._layout, self._part_opened = media, layout, part_opened
        self._span = Span([], [], False)
        self._asked: Interval | None = None
        self._deadline = 0.0
        self._known: Known = {}

    @classmethod
    def probe(cls, source: Source, timeout_s: float) -> MediaInfo:
        deadline = time.monotonic() + timeout_s
        with ffmpeg_errors_as_rejects(), opened(source, timeout_s, lean=False) as media:
            layout = layout_of(media, source, timeout_s)
            info = layout.info if layout else probe_media(media, deadline)
            reader, size = media.reader, media.container.size
            etag = reader.etag if reader else None
            info = replace(info, size=size if size > 0 else None, etag=etag)
            return replace(info, byte_index=learn(media, info, timeout_s))

    @classmethod
    def open(cls, source: Source, timeout_s: float) -> Self:
        part_opened = partial(opened, source, timeout_s, hardware=cls.on_gpu)
        media = part_opened()
        try:
            return cls(media, layout_of(media, source, timeout_s), part_opened)
        except BaseException:
            media.close()
            raise

    def close(self) -> None:
        self._media.close()
        gc.collect(0)  # see `orientation.Known`

    def enter(self, time_s: float) -> None:
        if self._layout:
            self._media.close()
            self._media = self._part_opened(part=self._layout.part_at(time_s))
            self._known = {}

    def read(self, video: Interval | None, audio: Interval | None, deadline: float) -> None:
        self._asked, self._deadline = audio, deadline
        with ffmpeg_errors_as_rejects():
            self._span = read_packets(self._media, video, audio, deadline)

    def frames(self, times_s: Sequence[float], deadline: float) -> Iterator[Frame]:
        if self._media.video is None:
            return
        with ffmpeg_errors_as_rejects():
            for shown in displayed_frames(self._media, self._span, times_s, deadline):
                rgb = partial(_rgb, shown.frame, self._known)
                yield Frame(shown.start_s, shown.end_s, shown.targets, rgb)

    def samples(
        self, windows: Sequence[Interval], count: int, rate: int
    ) -> list[np.ndarray | None]:
        if self._media.audio is None:
            return [None] * len(windows)
        with ffmpeg_errors_as_rejects():
            return [self._samples(window, count, rate) for window in windows]

    def _samples(self, window: Interval, count: int, rate: int) -> np.ndarray | None:
        if self._media.video is None and window != self._asked:
            # Wave files have no packets of their own: they are cut from where a seek landed.
            packets = read_packets(self._media, None, window, self._deadline).audio
        else:
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


def _rgb(frame: VideoFrame, known: Known, view: View) -> np.ndarray:
    with ffmpeg_errors_as_rejects():
        return to_rgb(frame, view, known)
