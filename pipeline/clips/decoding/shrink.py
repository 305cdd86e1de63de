"""An interval of a file as a small file of its own: all that later rounds may sample, no more.

Frames are scaled to the largest short side that training draws (never enlarged) and cut to
`VideoConfig.region`; each keeps its own time stamp. Audio is mono at the front end's rate. The
result is Matroska in memory, which `decode.decode_clips` reads like any other file.

PyAV does this, whatever `ClipsConfig.decoder` is: frames go from its decoder to its encoder without
becoming RGB. A file that PyAV does not know is a reject here; its clips are read from the media.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from av.packet import Packet
from av.video.frame import VideoFrame

from pipeline.clips.decoding.colour import PIXEL_FORMAT, Matrix, to_rgb8
from pipeline.clips.decoding.decoder import OUTSIDE_S, Source, load_decoder
from pipeline.clips.decoding.frames import DisplayedFrame, displayed_frames
from pipeline.clips.decoding.layout import opened_at
from pipeline.clips.decoding.media import Media, reject_for_ffmpeg
from pipeline.clips.decoding.orientation import UPRIGHT, Known
from pipeline.clips.decoding.packets import read_packets
from pipeline.clips.decoding.pyav import PyAVCudaDecoder
from pipeline.clips.decoding.samples import decode_stretches, resampled
from pipeline.clips.decoding.scaling import FrameKind, filter_graph, region_within
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig, VideoConfig

_TICK = Fraction(1, 1000)  # Matroska counts milliseconds; `frames.TOLERANCE_S` forgives two
# Constant quality: hard to tell from the source at this size. Each frame of "jpeg" stands alone,
# "h264" is a fifth of its size and decodes at most seven frames for the one that is wanted.
_CODECS = {
    "jpeg": ("mjpeg", {"qmin": "2", "qmax": "4"}),
    "h264": ("libx264", {"crf": "18", "preset": "veryfast", "tune": "fastdecode", "g": "8"}),
}


def shrink(
    source: Source, start_s: float, end_s: float, config: ClipsConfig, codec: str
) -> bytes | Reject:
    """The video and audio of [start_s, end_s], whose time 0 is `start_s`; or why there is none.

    Raises:
        UserError: there is no such decoder as `ClipsConfig.decoder`.
    """
    hardware = issubclass(load_decoder(config.decoder), PyAVCudaDecoder)
    try:
        middle_s = (start_s + end_s) / 2
        with opened_at(source, config.timeout_s, middle_s, hardware) as media:
            return _stored_clip(media, start_s, end_s, config, codec)
    except Exception as error:
        return reject_for_ffmpeg(error, Reason.CORRUPT)


def _stored_clip(media: Media, begin: float, end: float, config: ClipsConfig, codec: str) -> bytes:
    deadline = time.monotonic() + config.timeout_s
    video = (begin, end) if media.video is not None else None
    audio = (begin, end) if media.audio is not None else None
    span = read_packets(media, video, audio, deadline)
    frames: list[VideoFrame] = []
    if video:
        # Every frame of usual video, of faster video those 30 times a second: whatever is sampled
        # later shows the instant that it asks for, to within a frame.
        rate = max(config.video.fps, 30.0)
        targets = [begin + i / rate for i in range(math.floor((end - begin) * rate) + 1)]
        shown = displayed_frames(media, span, targets, deadline)
        frames = _shrunk(shown, begin, end, config.video, codec)
    samples = _samples(media, span.audio, begin, end, config) if audio else None
    if not frames and samples is None:
        raise Reject(Reason.CORRUPT, f"nothing between {begin:.2f} and {end:.2f} s")
    data = io.BytesIO()
    exact = {"fflags": "bitexact"}  # no random identifiers: a shard made again has the same bytes
    with av.open(data, "w", format="matroska", container_options=exact) as out:
        # Every track is made before the first packet is written.
        tracks: list[tuple[Any, list[Any]]] = []
        if frames:
            name, options = _CODECS[codec]
            track: Any = out.add_stream(name, rate=30, options=options)
            first = frames[0]
            track.width, track.height, track.pix_fmt = first.width, first.height, first.format.name
            track.time_base = track.codec_context.time_base = _TICK
            track.codec_context.thread_count = 1  # with several, the bytes differ from call to call
            tracks.append((track, frames))
        if samples is not None:
            track = out.add_stream("flac", rate=samples.sample_rate, layout="mono")
            tracks.append((track, [samples]))
        for track, content in tracks:
            for frame in [*content, None]:
                out.mux(track.encode(frame))
    return data.getvalue()


def _shrunk(
    shown: Iterable[DisplayedFrame], begin: float, end: float, config: VideoConfig, codec: str
) -> list[VideoFrame]:
    """The frames displayed in an interval, shrunk and stamped in ticks since its start."""
    shrunk: dict[int, VideoFrame] = {}
    graphs: dict[FrameKind, list[Graph]] = {}
    known: Known = {}
    for item in shown:
        if item.start_s > end + OUTSIDE_S or item.end_s < begin - OUTSIDE_S:
            continue
        kind = FrameKind.of(item.frame, known)
        if kind not in graphs:
            graphs[kind] = _shrinking_graphs(kind, config, codec)
        first, *second = graphs[kind]
        first.vpush(item.frame)
        frame = first.vpull()
        for graph in second:
            rgb = to_rgb8(frame.to_ndarray(), kind.matrix.number, kind.color_range)
            graph.vpush(VideoFrame.from_ndarray(rgb, format="rgb24"))
            frame = graph.vpull()
        stamp = max(0, round((item.start_s - begin) / _TICK))
        frame.pts, frame.time_base = stamp, _TICK
        shrunk[stamp] = frame
    return [shrunk[stamp] for stamp in sorted(shrunk)]


def _samples(
    media: Media, packets: Sequence[Packet], begin: float, end: float, config: ClipsConfig
) -> AudioFrame | None:
    """int16 mono from `begin` to `end`, zero where there is no audio; None without any."""
    stretches = decode_stretches(media, packets, begin, end)
    rate = config.audio.rate
    wave = resampled(stretches, begin, math.ceil((end - begin) * rate), rate)
    if wave is None:
        return None
    levels = np.round(wave[None] * 32767).astype(np.int16)
    samples: Any = AudioFrame.from_ndarray(levels, format="s16", layout="mono")
    samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
    return samples


def _shrinking_graphs(kind: FrameKind, config: VideoConfig, codec: str) -> list[Graph]:
    """For frames of one kind: region, upright, scaled, in the pixel format that is stored.

    The second one, where there is one, takes RGB that was converted in between.
    """
    upright = kind.orientation.size(kind.width, kind.height)
    x, y, w, h = region_within(config.region, *upright)
    side = min(w, h)
    short = min(side, max(config.short_side, config.train_short_side[1], config.size))
    width, height = (max(2, round(edge * short / side / 2) * 2) for edge in (w, h))
    # Shrunk to half or less, the chroma planes of usual video still tell every pixel apart.
    chroma = "444" if 2 * short <= side else "420"
    steps = [
        *kind.orientation.filters(),
        ("crop", f"{w}:{h}:{x}:{y}:exact=1"),
    ]
    scale = f"{width}:{height}:flags=area"
    # Stored clips name no matrix and no range, so they have those of JPEG, or of H.264 without any.
    told = f"{scale}:out_color_matrix=bt601:out_range={'full' if codec == 'jpeg' else 'limited'}"
    stored = [("scale", told), ("format", f"{'yuvj' if codec == 'jpeg' else 'yuv'}{chroma}p")]
    if not kind.matrix.is_converted:
        return [filter_graph(kind, [*steps, *stored])]
    rgb = FrameKind(width, height, "rgb24", Matrix(0, 0), 2, UPRIGHT)
    planes = [("scale", scale), ("format", PIXEL_FORMAT)]
    return [filter_graph(kind, [*steps, *planes]), filter_graph(rgb, stored)]
