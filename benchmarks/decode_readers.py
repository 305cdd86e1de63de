"""The readers that `decode.py` compares: each takes (path, centre in s, what probe says)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated
from pipeline.clips.decoding.media import opened
from pipeline.clips.decoding.packets import read_packets
from pipeline.config import ClipsConfig, VideoConfig
from pipeline.storage import Location

CONFIG = ClipsConfig(
    video=VideoConfig(size=112, short_side=128, train_short_side=(128, 160)), timeout_s=60
)
FRAMES, FPS, SIZE, SHORT = 8, 30.0, 112, 128
WINDOW_S, RATE = 2.0, 16_000

Clip = tuple[Path, float, MediaInfo]
Reader = Callable[[Path, float, MediaInfo], object]


def times(centre: float) -> list[float]:
    return [centre + (i - (FRAMES - 1) / 2) / FPS for i in range(FRAMES)]


def indexed(path: Path, info: MediaInfo) -> MediaFile:
    """As decoding gets it, with what indexing has learnt."""
    return MediaFile(Location.of(path), info.size, info.etag, info.pieces)


def ours(path: Path, centre: float, info: MediaInfo) -> object:
    (clip,) = decode_clips(indexed(path, info), [ClipRequest(centre, SHORT)], CONFIG)
    assert isinstance(clip, DecodedClip)
    return clip


def isolated(path: Path, centre: float, info: MediaInfo) -> object:
    (clip,) = decode_clips_isolated(indexed(path, info), [ClipRequest(centre, SHORT)], CONFIG)
    assert isinstance(clip, DecodedClip)
    return clip


def scaled(info: MediaInfo) -> tuple[int, int]:
    side = min(info.width, info.height)
    return round(info.width * SHORT / side), round(info.height * SHORT / side)


def pyav(path: Path, centre: float, info: MediaInfo) -> object:
    wanted = times(centre)
    width, height = scaled(info)
    x, y = (width - SIZE) // 2, (height - SIZE) // 2
    shown: list[np.ndarray] = []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        container.seek(int(max(0, wanted[0]) / stream.time_base), stream=stream)
        last = None
        for frame in container.decode(stream):
            while last is not None and len(shown) < FRAMES and wanted[len(shown)] < frame.time:
                rgb = last.reformat(width, height, "rgb24").to_ndarray()
                shown.append(rgb[y : y + SIZE, x : x + SIZE])
            last = frame
            if len(shown) == FRAMES:
                break
        while last is not None and len(shown) < FRAMES:
            rgb = last.reformat(width, height, "rgb24").to_ndarray()
            shown.append(rgb[y : y + SIZE, x : x + SIZE])
        audio = None
        if info.has_audio:
            track = container.streams.audio[0]
            track.thread_type = "NONE"
            start = max(0.0, centre - WINDOW_S / 2)
            container.seek(int(start / track.time_base), stream=track)
            resampler = av.AudioResampler("fltp", "mono", RATE)
            parts = []
            for piece in container.decode(track):
                if piece.time > start + WINDOW_S:
                    break
                piece.pts = None
                parts += [out.to_ndarray()[0] for out in resampler.resample(piece)]
            audio = np.concatenate(parts)[: int(RATE * WINDOW_S)]
    return np.stack(shown), audio


def torchcodec_readers() -> dict[str, Reader]:
    import torch
    from torchcodec.decoders import AudioDecoder, VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)

    def reader(mode: str, inside: bool) -> Reader:
        def read(path: Path, centre: float, info: MediaInfo) -> object:
            width, height = scaled(info)
            steps = [Resize((height, width)), CenterCrop((SIZE, SIZE))] if inside else None
            video = VideoDecoder(
                str(path), num_ffmpeg_threads=1, seek_mode=mode, transforms=steps,
                dimension_order="NCHW",
            )  # fmt: skip
            begin = video.metadata.begin_stream_seconds or 0.0
            end = video.metadata.end_stream_seconds or info.end_s
            wanted = [min(max(t, begin), end - 1e-3) for t in times(centre)]
            shown = video.get_frames_played_at(wanted).data
            if not inside:
                shown = functional.resize(shown, [height, width], antialias=True)
                shown = functional.center_crop(shown, [SIZE, SIZE])
            audio = None
            if info.has_audio:
                decoder = AudioDecoder(str(path), sample_rate=RATE, num_channels=1)
                start = max(centre - WINDOW_S / 2, decoder.metadata.begin_stream_seconds or 0.0)
                audio = decoder.get_samples_played_in_range(start, start + WINDOW_S).data
            return shown, audio

        return read

    return {
        f"torchcodec {mode}{' transforms' if inside else ''}": reader(mode, inside)
        for mode in ("exact", "approximate")
        for inside in (True, False)
    }


def decord_reader() -> Reader:
    import decord

    def read(path: Path, centre: float, info: MediaInfo) -> object:
        width, height = scaled(info)
        video = decord.VideoReader(
            str(path), ctx=decord.cpu(0), num_threads=1, width=width, height=height
        )
        rate = video.get_avg_fps()
        numbers = [min(max(int(t * rate), 0), len(video) - 1) for t in times(centre)]
        x, y = (width - SIZE) // 2, (height - SIZE) // 2
        shown = video.get_batch(numbers).asnumpy()[:, y : y + SIZE, x : x + SIZE]
        audio = None
        if info.has_audio:
            track = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=RATE, mono=True)
            first = int(max(0.0, centre - WINDOW_S / 2) * RATE)
            audio = track[first : first + int(WINDOW_S * RATE)].asnumpy()
        return shown, audio

    return read


class Floor:
    """Decoding alone; what it takes to get the packets is not counted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, path: Path, centre: float, info: MediaInfo) -> object:
        wanted = times(centre)
        window = (centre - WINDOW_S / 2, centre + WINDOW_S / 2) if info.has_audio else None
        with opened(Location.of(path), 60) as media:
            span = read_packets(media, (wanted[0], wanted[-1]), window, time.monotonic() + 60)
            assert media.video is not None
            stamps = [p.pts for p in span.video if p.pts is not None]
            shown = [s for s in stamps if media.seconds(s, media.video) <= wanted[-1] + 2e-3]
            last = max(
                (i for i, p in enumerate(span.video) if p.pts is None or p.pts in set(shown)),
                default=len(span.video) - 1,
            )
            contexts = [media.video.codec_context]
            lists = [span.video[: last + 1]]
            if media.audio is not None and window is not None:
                contexts.append(media.audio.codec_context)
                lists.append(span.audio)
            for context in contexts:
                context.open(strict=False)
            began = cpu()
            for context, chosen in zip(contexts, lists):
                for packet in [*chosen, None]:
                    try:
                        context.decode(packet)
                    except av.error.FFmpegError:
                        continue
            self.seconds = cpu() - began
        return None


def cpu() -> float:
    return time.process_time()
