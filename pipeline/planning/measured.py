"""All that the probes measured: what the model of a run is fed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.planning.decode_probe import CoreTime
from pipeline.planning.device_probe import DeviceTime
from pipeline.planning.stage_probe import KMeansTime
from pipeline.planning.timeline import ClipPass

Decoding = Mapping[tuple[tuple[str, ...], bool], CoreTime]  # (modalities, drawn) → of a clip


@dataclass(frozen=True)
class StoreTime:
    """Of the clip store."""

    fill: CoreTime  # a clip
    start_s: float  # of the fill
    clip_bytes: float
    decoding: Decoding  # from it


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes of the pieces of a run."""

    job_s: float  # until the job is connected to Ray
    encoders_s: float  # of round 0 without warming
    decoding: Decoding  # from the media; empty where a clip store has all
    store: StoreTime | None
    encoding: Mapping[ClipPass, DeviceTime]
    steps: Mapping[int, tuple[DeviceTime, DeviceTime]]  # update → a step, a held-out batch
    kmeans: KMeansTime
    embed_start_s: float  # of the first pass
    embed_again_s: float  # of the others
    learn_start_s: float  # of the first update
    learn_again_s: float  # of the others
    weights_bytes: int  # of both encoders
    table_bytes: float  # of the published clips table, a clip
    dims: Mapping[str, int]  # of features, by modality
    loop_s: Mapping[str, float]  # seconds a clip in the small stages, beyond their start
