"""Encoders over all clips: Ray Data decodes, an actor pool encodes, shards are written.

    clips → decode (tasks) → encode (actors, one a GPU) → features/<modality>/*.parquet

Every clip is taken at the middle of its window, centre crop, encoders in eval mode. A clip ends in
the features of each modality it has, or in the round's rejects with a reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline import encoders
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.frontend import FramesToInput, LogMel
from pipeline.clips.rejects import RejectedClip, kind_of_loss
from pipeline.clips.stream import DecodeSlot, Order, stream
from pipeline.clips.table import PublishedClips
from pipeline.config import Config, EmbeddingConfig
from pipeline.embedding.shards import REJECTS, FeatureSink, Written, as_feature_array, finish
from pipeline.encoders import raw
from pipeline.runtime import demands
from pipeline.runtime.devices import autocast, choose_device, on_device, use_threads
from pipeline.runtime.placement import decoding, encoding, writing
from pipeline.runtime.standby import NextStages
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Meter, Progress


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


def embed(task: EmbeddingTask) -> dict[str, Any]:
    """Embed every clip, except what training kept or a killed pass wrote into the same folders.

    Returns:
        Counts (clips, rejected, features per modality), the seconds it took, and those until the
        first batch was encoded.
    """
    config, modalities, num_clips = task.config, tuple(task.out), len(task.clips)
    for folder in task.out.values():
        folder.sweep()
    written = Written.before(task.out, task.rejects, num_clips)
    wanted = np.flatnonzero(~written.banked)
    batch_size = min(config.embedding.batch_size, max(len(wanted), 1))
    # Features must not depend on what killed passes left: a clip comes again with its whole slot.
    slot_of, done = np.arange(len(wanted)) // batch_size, written.clips[wanted]
    slots = np.unique(slot_of[~done])
    comes = np.isin(slot_of, slots)
    again = wanted[done & comes]
    kept = num_clips - len(wanted)
    order = Order(len(wanted), batch_size, [ray.put(wanted)] if kept else None)
    if kept:
        say(f"{task.title} · training kept the features of {kept:,} of {num_clips:,} clips")
    if written.passes:
        say(f"{task.title} · goes on after {written.clips.sum():,} of {num_clips:,} clips")
    # At least 16 files, unless they would be tiny: a kill loses what is not in one yet.
    rows_per_file = min(config.embedding.max_rows_per_file, max(num_clips // 16, 256))
    sink = FeatureSink(task.out, task.rejects, task.clips.table, rows_per_file, written, again)
    asks = demands.embedding(config, load_decoder(config.clips.decoder).on_gpu)
    demands.refuse_impossible(asks, config.resources)
    with Progress(task.title, int(comes.sum()), "clips", asks, config.resources) as progress:
        if len(slots):
            if task.ahead:
                task.ahead.before(progress.left_s)
            decode = DecodeSlot(task.clips, order, config.clips, modalities)
            cost = decoding(config.resources, load_decoder(config.clips.decoder).on_gpu)
            device = choose_device(config.resources)
            # A cluster without a GPU may still bring one up: the device is the user's choice.
            encoded = stream(decode, cost=cost, slots=slots).map_batches(
                Encode,
                fn_constructor_args=(task.weights, modalities, config, device, progress.meter),
                batch_size=1,
                compute=encoder_pool(config.embedding),
                **encoding(config.resources, device),
            )
            encoded.write_datasink(sink, ray_remote_args=writing(config.resources))
    finish(task.out)
    start_seconds, seconds = round(progress.start_s, 2), round(progress.seconds, 2)
    return {**sink.counts, "start_seconds": start_seconds, "seconds": seconds}


def encoder_pool(config: EmbeddingConfig) -> ActorPoolStrategy:
    return ActorPoolStrategy(min_size=config.min_actors, max_size=config.max_actors)


class Encode:
    """The encoding stage, an actor: one decoded batch in, one table of features out."""

    def __init__(
        self,
        weights: Location | None,
        modalities: Sequence[str],
        config: Config,
        device: str,
        meter: Meter,
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

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        indices = batch["clip_index"][0]
        rejects = RejectedClip.loads(batch["rejects"][0])
        columns: dict[str, pa.Array] = {"clip_index": pa.array(indices, pa.int64())}
        for modality in self.modalities:
            tensor = on_device(batch[modality][0], self.device)
            with autocast(self.device, self.precision):
                features = self.networks[modality](self.front[modality](tensor))
            values = features.float().cpu().numpy().astype(np.float16)
            columns[modality] = as_feature_array(values, batch[f"has_{modality}"][0])
        lost: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for reject in rejects:
            lost[reject.clip_index].append(reject._asdict())
        columns["rejects"] = pa.array(map(lost.get, indices.tolist()), REJECTS)
        table = pa.table(columns).filter(pa.array(indices >= 0))
        losses = Counter(kind_of_loss(reject.modality) for reject in rejects)
        self.meter.add(None, done=len(table), **losses)
        metrics.gpu_memory("embed")
        return table
