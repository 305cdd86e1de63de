"""Encoders over all clips: Ray Data decodes, an actor pool encodes, shards are written.

    clips → decode (tasks) → encode (actors, one a GPU) → features/<modality>/*.parquet

Every clip is taken at the middle of its window, centre crop, encoders in eval mode. A clip ends in
the features of each modality it has, or in the round's rejects with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import WorkerCrashedError

from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.deleted import check_media
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config
from pipeline.embedding import executors
from pipeline.embedding.encode import Losses
from pipeline.embedding.executors import Pass
from pipeline.embedding.shards import FeatureSink
from pipeline.embedding.written import Origin, Written, finish, losses_of, unfinished
from pipeline.manifest import NAME
from pipeline.runtime import demands
from pipeline.runtime.placement import choose_device
from pipeline.runtime.standby import NextStages
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress

_CRASHES = 3  # of processes that a pass outlives


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
    for _ in range(_CRASHES):
        try:
            return _embed(task)
        except WorkerCrashedError:
            say(f"{task.title} · one of its processes died beside the driver; the pass goes on")
    return _embed(task)


def _embed(task: EmbeddingTask) -> dict[str, Any]:
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
            rows = max(rows // of_a_row, 1)
            new_sink = partial(FeatureSink, out, task.rejects, origin, rows, written, again)
            if task.ahead:
                task.ahead.before(progress.left_s)
            device = choose_device(config.resources)
            losses = Losses(task.title, len(clips), config.clips.max_rejected, task.lost_before)
            tasks = executors.encodes_in_tasks(device)
            work = Pass(stream, task.weights, config, device, progress.meter, losses, tasks)
            names = executors.run(work, slots, new_sink)
            written = Written.before(out, task.rejects, origin, names)
    counts = written.counts()
    if counts["rejected"]:
        ids = clips.rows(np.flatnonzero(written.rejected), ["clip_id"])["clip_id"].to_pylist()
        lost, tried = losses_of(task.rejects, out, ids), int((chosen & ~written.banked).sum())
        check_media(task.title, lost, tried, config.clips.max_rejected, task.lost_before)
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
