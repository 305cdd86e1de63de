"""Encoders over all clips: Ray Data decodes, an actor pool encodes, shards are written.

    clips → decode (tasks) → encode (actors, one a GPU) → features/<modality>/*.parquet

Every clip is taken at the middle of its window, centre crop, encoders in eval mode. A clip ends in
the features of each modality it has, or in the round's rejects with a reason.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline import encoders
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.frontend import FramesToInput, LogMel
from pipeline.clips.outage import check_losses
from pipeline.clips.rejects import Reason, RejectedClip, kind_of_loss
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots, batches_of
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config, EmbeddingConfig
from pipeline.embedding.shards import REJECTS, FeatureSink, as_feature_array, as_row
from pipeline.embedding.written import Origin, Written, finish, reasons_of, unfinished
from pipeline.encoders import raw
from pipeline.manifest import NAME
from pipeline.runtime import demands
from pipeline.runtime.devices import autocast, on_device, use_threads
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import choose_device, decoding, encoding, writing
from pipeline.runtime.standby import NextStages
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Meter, Progress

# Rows that an actor is given: Ray Data hands out more ten times a second at most.
_IN_FLIGHT = 8


@dataclass(frozen=True)
class EmbeddingTask:
    """One pass of encoders over all clips."""

    clips: PublishedClips  # N clips, decoded once for all modalities
    weights: Location | None  # safetensors; None: features without learning (encoders/raw.py)
    out: Mapping[str, Location]  # modality → folder of the feature shards (shards.py)
    rejects: Location  # folder for the rejects of this pass
    config: Config
    title: str  # shown to the user
    ahead: NextStages | None = None  # nodes of the stages after it
    lost_before: float = 0.0  # share of the clips that the pass before this one rejected


def embed(task: EmbeddingTask) -> dict[str, Any]:
    """Embed every clip that has no features of these weights in the task's folders yet.

    Features that training kept, that a killed pass wrote, or of fewer clips, are completed.

    Where ``clips.split`` names splits, only clips of these.

    Returns:
        Counts (clips, rejected, features per modality), the seconds it took, and those until the
        first batch was encoded; nothing where all was there.

    Raises:
        Outage: so many clips were rejected that the media are away.
    """
    config, clips = task.config, task.clips.table
    origin = origin_of(task.weights, config, clips)
    lacking = unfinished(task.out, origin)
    if not lacking:
        return {}
    for why in filter(None, sorted(set(lacking.values()))):
        say(f"{task.title} · {why}")
    out = {modality: task.out[modality] for modality in lacking}
    if len(out) < len(task.out):
        task = replace(task, title=f"{task.title} ({', '.join(out)} lacking)")
    for folder in out.values():
        folder.sweep()
    written = Written.before(out, task.rejects, origin)
    chosen = clips.in_splits(config.clips.split)
    wanted = np.flatnonzero(chosen & ~written.banked).astype(np.int32)
    size = min(config.embedding.batch_size, max(len(wanted), 1))
    # Features must not depend on what killed passes left: a clip comes again with its whole slot.
    lacks = np.logical_or.reduceat(~written.done[wanted], np.arange(0, len(wanted), size))
    slots, comes = np.flatnonzero(lacks), np.repeat(lacks, size)[: len(wanted)]
    again = {m: wanted[comes & written.clips[m][wanted]] for m in out}
    _say_what_is_there(task, written)
    if not len(slots) and written.passes:  # training alone writes no such mark
        for place in (folder / NAME for folder in out.values()):
            if not place.exists():
                say(f"{task.title} · {place} was gone, or not written yet; all its clips are there")
    asks = demands.embedding(config, load_decoder(config.clips.decoder).on_gpu)
    demands.refuse_impossible(asks, config.resources)
    with Progress(task.title, int(comes.sum()), "clips", asks, config.resources) as progress:
        if len(slots):
            some = len(wanted) < len(clips)
            order = Order(len(wanted), size, [ray.put(wanted)] if some else None)
            stream = Slots(task.clips, order, config.clips, tuple(out))
            # At least 16 files, unless they would be tiny: a kill loses what is not in one yet.
            rows = min(config.embedding.max_rows_per_file, max(len(clips) // 16, 256))
            of_a_row = size * stream.together(len(slots))
            sink = FeatureSink(out, task.rejects, origin, max(rows // of_a_row, 1), written, again)
            if task.ahead:
                task.ahead.before(progress.left_s)
            _run(task, stream, slots, sink, progress.meter)
            written = Written.before(out, task.rejects, origin, sink.names)
    counts = written.counts()
    if counts["rejected"]:
        ids = clips.rows(np.flatnonzero(written.rejected), ["clip_id"])["clip_id"].to_pylist()
        reasons, tried = reasons_of(task.rejects, out, ids), int((chosen & ~written.banked).sum())
        check_losses(task.title, reasons, tried, config.clips.max_rejected, task.lost_before)
    finish(out, written, origin)
    start_seconds, seconds = round(progress.start_s, 2), round(progress.seconds, 2)
    return {**counts, "start_seconds": start_seconds, "seconds": seconds}


def origin_of(weights: Location | None, config: Config, clips: ClipTable) -> Origin:
    """What features of these clips are made of, with the settings that decide what comes out."""
    deciding = {
        "clips": config.clips.outcome(),
        "encoders": config.encoders.outcome(),
        "precision": config.precision,
        "batch_size": config.embedding.batch_size,
    }
    return Origin.of(weights, deciding, clips)


def _say_what_is_there(task: EmbeddingTask, written: Written) -> None:
    num_clips, banked = len(task.clips), int(written.banked.sum())
    for place in written.damaged:
        say(f"{task.title} · {place} is not as it was written; its clips are embedded again")
    if banked:
        say(f"{task.title} · training kept the features of {banked:,} of {num_clips:,} clips")
    if written.passes:
        say(f"{task.title} · goes on after {written.done.sum():,} of {num_clips:,} clips")


def _run(
    task: EmbeddingTask, stream: Slots, slots: np.ndarray, sink: FeatureSink, meter: Meter
) -> None:
    """Decode and encode these slots, and write what they give."""
    config = task.config
    cost = decoding(config.resources, load_decoder(config.clips.decoder).on_gpu)
    device = choose_device(config.resources)
    # A cluster without a GPU may still bring one up: the device is the user's choice.
    encoded = stream.stream(cost, slots).map_batches(
        Encode,
        fn_constructor_args=(task.weights, stream.modalities, config, device, meter),
        fn_constructor_kwargs={"losses": Losses.of(task)},
        batch_size=None,
        compute=encoder_pool(config.embedding),
        **encoding(config.resources, device),
    )
    with unwrapped():
        encoded.write_datasink(sink, ray_remote_args=writing(config.resources))


def encoder_pool(config: EmbeddingConfig) -> ActorPoolStrategy:
    return ActorPoolStrategy(
        min_size=config.min_actors,
        max_size=config.max_actors,
        max_tasks_in_flight_per_actor=_IN_FLIGHT,
    )


class Encode:
    """The encoding stage, an actor: a row of decoded slots in, their table of features out."""

    def __init__(
        self,
        weights: Location | None,
        modalities: Sequence[str],
        config: Config,
        device: str,
        meter: Meter,
        losses: Losses | None = None,
    ) -> None:
        use_threads(device)
        if weights is None:
            networks = raw.build()
        else:
            networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
            encoders.load_weights(networks, weights)
        self.device = torch.device(device)
        self.networks = networks.eval().to(self.device)
        front = {"video": FramesToInput(), "audio": LogMel(config.clips.audio)}
        self.front = torch.nn.ModuleDict(front).to(self.device)
        self.modalities, self.precision, self.meter = modalities, config.precision, meter
        self.losses = losses

    def __call__(self, row: dict[str, np.ndarray]) -> pa.Table:
        return as_row(pa.concat_tables(map(self._encoded, batches_of(row))).combine_chunks())

    @torch.inference_mode()
    def _encoded(self, batch: dict[str, Any]) -> pa.Table:
        indices, names = batch["clip_index"], json.loads(batch["names"])
        rejects = RejectedClip.loads(batch["rejects"])
        columns: dict[str, pa.Array] = {"clip_index": pa.array(indices, pa.int64())}
        for modality in self.modalities:
            values, present = self._features(modality, batch[modality]), batch[f"has_{modality}"]
            finite = np.isfinite(values).all(axis=1)
            for place in np.flatnonzero(present & ~finite).tolist():
                rejects.append(_not_finite(int(indices[place]), names[place], modality))
            columns[modality] = as_feature_array(np.nan_to_num(values), present & finite)
        lost: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for reject in rejects:
            lost[reject.clip_index].append(reject._asdict())
        columns["rejects"] = pa.array(map(lost.get, indices.tolist()), REJECTS)
        table = pa.table(columns).filter(pa.array(indices >= 0))
        losses = Counter(kind_of_loss(reject.modality) for reject in rejects)
        self.meter.add(None, done=len(table), **losses)
        metrics.gpu_memory("embed")
        if self.losses is not None:
            self.losses.add([reject.reason for reject in rejects if reject.modality is None])
        return table

    def _features(self, modality: str, clips: np.ndarray) -> np.ndarray:
        """float32 [B, d]."""
        tensor = on_device(clips, self.device)
        with autocast(self.device, self.precision):
            return self.networks[modality](self.front[modality](tensor)).float().cpu().numpy()


def _not_finite(clip: int, named: Sequence[str], modality: str) -> RejectedClip:
    (uri, clip_id), what = named, "the encoder gives no finite numbers for it"
    return RejectedClip(clip, uri, clip_id, modality, Reason.NOT_FINITE.value, what)


@dataclass
class Losses:
    """What one encoder actor lost; ends a pass early that has lost too much already."""

    title: str
    clips: int
    allowed: float
    before: float

    @classmethod
    def of(cls, task: EmbeddingTask) -> Losses:
        allowed = task.config.clips.max_rejected
        return cls(task.title, len(task.clips), allowed, task.lost_before)

    def __post_init__(self) -> None:
        self.reasons: Counter[str] = Counter()

    def add(self, reasons: list[str]) -> None:
        """Raises Outage if this actor alone has lost more than the whole pass may lose."""
        self.reasons.update(reasons)
        check_losses(self.title, self.reasons, self.clips, self.allowed, self.before)
