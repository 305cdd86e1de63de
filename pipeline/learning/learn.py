"""Update the encoders to predict pseudo-labels: Ray Train runs the workers, Ray Data feeds them.

One call of `learn` is one update of a method: new heads, a new optimiser, a fixed schedule of
batches. worker.py holds the loop of a worker, learner.py its steps, which know nothing of Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ray.exceptions import RayActorError
from ray.train import TrainingFailedError

from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.slots import Order
from pipeline.clips.stream import Augment, Slots
from pipeline.errors import UserError
from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.learning.feed import Plan
from pipeline.learning.group import FAILURES, DeskLost, TrainingGroup
from pipeline.learning.schedule import Schedule, ScheduleShape
from pipeline.learning.task import LearningTask, WorkerTask
from pipeline.manifest import NAME, Damaged, Manifest, seal_written
from pipeline.runtime import demands
from pipeline.runtime.failures import as_user_error
from pipeline.runtime.placement import choose_device, decoding, training
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress

_FILES = ("encoders.safetensors", "heads.safetensors", "curve.parquet", "metrics.json")


def learn(task: LearningTask, group: TrainingGroup | None = None) -> dict[str, Any]:
    """Train the task's encoders on its labels; write weights and metrics, sealed; return these.

    Args:
        group: of the caller, where several updates follow each other; its workers may stay.

    Raises:
        UserError: no clip has the labels that the task needs, or a setting needs GPUs.
    """
    config = task.config
    device = choose_device(config.resources)
    if config.learning.sync_batchnorm and device != "cuda":
        raise UserError("learning.sync_batchnorm needs GPUs: torch has it for them alone")
    asks = demands.learning(config, load_decoder(config.clips.decoder).on_gpu)
    demands.refuse_impossible(asks, config.resources)
    labels = [labels.boxed for labels in task.labels.values()]
    given = (task.clips.table, labels, task.needs_all_labels, config.learning, task.key)
    schedule = Schedule.draw(*given)
    if schedule.labelled == 0:
        raise UserError(
            f"{task.title}: no clip has the labels {' and '.join(task.labels)} that "
            f"{' and '.join(task.heads)} should learn; the rejects in {task.rejects} say what was "
            "lost"
        )
    shape = replace(schedule.shape, digest=_identity(task, schedule.shape))
    begun = _taken_up(task, shape)
    global_batch = config.learning.batch_size * config.learning.step_batches
    drawn = shape.epochs * shape.train_steps * global_batch
    if begun:
        say(f"{task.title} · goes on after {begun:,} of {drawn:,} clips")
    with Progress(task.title, drawn - begun, "clips", asks, config.resources) as progress:
        work = WorkerTask(task, device, shape, progress.meter, _plan(task, schedule, device))
        if group is None:
            with TrainingGroup() as own:
                metrics = _train(work, own)
        else:
            metrics = _train(work, group)
    metrics |= {"labelled": schedule.labelled, "skipped": schedule.skipped}
    metrics["seconds"] = round(progress.seconds, 2)
    (task.out / "metrics.json").write_json(metrics)
    seal_written(task.out, _FILES, task=shape.digest, **task.made_of)
    Checkpoints(task.out).delete()
    return metrics


def metrics_of(out: Location, made_of: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What `learn` returned for the update in this folder; None where that is to be learned yet.

    An update of which a file is not as it was written, or that was made of something else than
    `made_of`, is none; this is said.
    """
    try:
        manifest = Manifest.whole(out)
        if manifest is None:
            return None
        manifest.check_content()
        other = [n for n, value in (made_of or {}).items() if manifest.made_of.get(n) != value]
        if other:
            say(f"{out} was made of other {' and '.join(other)}: it is learned again")
            (out / NAME).delete()
            return None
        return dict(json.loads(manifest.load("metrics.json")))
    except Damaged as damaged:
        say(f"{damaged.place} is damaged ({damaged.what}): its update is learned again")
        (out / NAME).delete()
        return None


def _plan(task: LearningTask, schedule: Schedule, device: str) -> Plan:
    """How the schedule's batches are made, and what that may take."""
    config, shape = task.config, schedule.shape
    learning, resources, size = config.learning, config.resources, config.learning.batch_size
    num_slots = shape.num_slots(learning.step_batches)
    order = Order(num_slots * size, size, schedule.order, schedule.held_out, schedule.last)
    labels = {name: labels.boxed for name, labels in task.labels.items()}
    augment = Augment(*task.key[:2])
    slots = Slots(task.clips, order, config.clips, tuple(task.heads), augment, labels)
    cost = decoding(resources, load_decoder(config.clips.decoder).on_gpu, packed=True)
    return Plan(
        partial(slots.stream, cost),
        num_slots,
        max_bytes=learning.max_prefetch_mb * 2**20,
        worker_cpus=training(learning, resources, device)["num_cpus"],
    )


def _identity(task: LearningTask, schedule: ScheduleShape) -> str:
    """Digest of all that the training depends on: a checkpoint only continues the same."""
    config = task.config
    settings = [part.outcome() for part in (config.learning, config.clips, config.encoders)]
    said = (schedule.digest, settings, config.precision, task.spec.heads, task.key, task.frozen)
    digest = hashlib.blake2b(repr(said).encode(), digest_size=8)
    digest.update(task.weights.read_bytes())
    return digest.hexdigest()


def _taken_up(task: LearningTask, schedule: ScheduleShape) -> int:
    """Training clips that an earlier attempt's checkpoint covers.

    Deletes a checkpoint that is damaged or of another schedule, and the rejects of an attempt
    without a checkpoint.
    """
    state, checkpoints = TrainingState.of(task.out), Checkpoints(task.out)
    why = "damaged" if checkpoints.is_damaged() else ""
    if state.slot and state.schedule != schedule.digest:
        why = "of other clips, labels or settings"
    if why:
        say(f"{task.title} · begins anew: its checkpoint is {why}")
        checkpoints.delete()
        state = TrainingState()
    per_step = task.config.learning.step_batches
    epoch, step = divmod(state.slot // per_step, schedule.epoch_steps)
    steps = epoch * schedule.train_steps + min(step, schedule.train_steps)
    if not steps:
        for earlier in task.rejects.files():
            if earlier.name.startswith(task.rejects_prefix):
                earlier.delete()
    return steps * per_step * task.config.learning.batch_size


def _train(work: WorkerTask, group: TrainingGroup) -> dict[str, Any]:
    """Train until it is done, or until attempts fail without getting any further."""
    task, vain = work.task, 0
    while True:
        before = TrainingState.of(task.out).slot
        try:
            return group.train(work)
        except (TrainingFailedError, RayActorError, DeskLost) as error:
            if told := as_user_error(error):
                raise told from error
            vain = 0 if TrainingState.of(task.out).slot > before else vain + 1
            reason = str(error).strip().splitlines()[0]
            # Where its controller died, Ray Train has not tried again itself.
            if isinstance(error, RayActorError):
                reason = "Ray Train's controller died"
                if vain > FAILURES:
                    raise UserError(
                        f"{task.title}: {reason} {vain} times in a row, on the driver's node. "
                        "See whether its memory is full, and give the same command again"
                    ) from error
            elif vain:
                raise
            say(f"{task.title} · workers were lost ({reason}); it goes on from the checkpoint")
