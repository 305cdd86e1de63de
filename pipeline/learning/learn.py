"""Update the encoders to predict pseudo-labels: Ray Train runs the workers, Ray Data feeds them.

One call of `learn` is one update of a method: new heads, a new optimiser, a fixed schedule of
batches. worker.py holds the loop of a worker, learner.py its steps, which know nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.data import ExecutionOptions, ExecutionResources
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.stream import Augment, DecodeSlot, Order, stream
from pipeline.errors import UserError
from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.learning.schedule import Schedule, ScheduleShape, draw_schedule
from pipeline.learning.task import LearningTask, WorkerTask
from pipeline.learning.worker import train_worker
from pipeline.runtime import demands
from pipeline.runtime.devices import KEEPS_MEMORY, choose_device
from pipeline.runtime.failures import HopelessEnds, as_user_error
from pipeline.runtime.placement import decoding, on_driver_node, training
from pipeline.runtime.ray_data import set_up_ray_data
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress

_TRAIN = "train"  # Ray Train's own folder in the update's
_FAILURES = 3  # that Ray Train mends by itself before `_fit` looks whether they got any further


def learn(task: LearningTask) -> dict[str, Any]:
    """Train the task's encoders on its labels; write weights and metrics; return the metrics.

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
    schedule: Schedule = ray.get(draw_schedule.options(**on_driver_node()).remote(*given))
    if schedule.labelled == 0:
        raise UserError(
            f"no clip has the pseudo-labels that {'/'.join(task.heads)} should learn "
            f"({', '.join(task.labels)}): do the clips have both video and audio?"
        )
    shape, begun = schedule.shape, _taken_up(task, schedule.shape)
    global_batch = config.learning.batch_size * config.learning.step_batches
    drawn = shape.epochs * shape.train_steps * global_batch
    if begun:
        say(f"{task.title} · goes on after {begun:,} of {drawn:,} clips")
    with Progress(task.title, drawn - begun, "clips", asks, config.resources) as progress:
        last_seen = [ray.put(schedule.last_seen())] if task.bank else None
        work = WorkerTask(task, device, shape, progress.meter, last_seen)
        metrics = _fit(work, _decoded(task, schedule))
    metrics |= {"labelled": schedule.labelled, "skipped": schedule.skipped}
    metrics["seconds"] = round(progress.seconds, 2)
    (task.out / "metrics.json").write_json(metrics)
    Checkpoints(task.out).delete()
    return metrics


def _decoded(task: LearningTask, schedule: Schedule) -> Callable[[], ray.data.Dataset]:
    """Make the function that makes the dataset of the batches that are left.

    Ray Train calls it in a process of its own, for every new group of workers.
    """
    config = task.config
    indices, held_out = [ray.put(schedule.order)], [ray.put(schedule.held_out)]
    order = Order(len(schedule.order), config.learning.batch_size, indices, held_out)
    labels = {name: labels.boxed for name, labels in task.labels.items()}
    augment = Augment(*task.key[:2])
    decode = DecodeSlot(task.clips, order, config.clips, tuple(task.heads), augment, labels)
    cost = decoding(config.resources, load_decoder(config.clips.decoder).on_gpu, packed=True)

    def decoded() -> ray.data.Dataset:
        set_up_ray_data(feeding=True)
        first = TrainingState.of(task.out).slot
        return stream(decode, cost=cost, slots=np.arange(first, order.num_slots))

    return decoded


def _taken_up(task: LearningTask, schedule: ScheduleShape) -> int:
    """Training clips that an earlier attempt's checkpoint covers.

    Deletes a checkpoint of another schedule, and the rejects of an attempt without a checkpoint.
    """
    state = TrainingState.of(task.out)
    if state.slot and state.schedule != schedule.digest:
        say(f"{task.title} · begins anew: its checkpoint is of other clips, labels or settings")
        Checkpoints(task.out).delete()
        state = TrainingState()
    per_step = task.config.learning.step_batches
    epoch, step = divmod(state.slot // per_step, schedule.epoch_steps)
    steps = epoch * schedule.train_steps + min(step, schedule.train_steps)
    if not steps:
        for earlier in task.rejects.files():
            if earlier.name.startswith(task.rejects_prefix):
                earlier.delete()
    return steps * per_step * task.config.learning.batch_size


def _fit(work: WorkerTask, decoded: Callable[[], ray.data.Dataset]) -> dict[str, Any]:
    """Train until it is done, or until attempts fail without getting any further."""
    task = work.task
    try:
        while True:
            before = TrainingState.of(task.out).slot
            (task.out / _TRAIN).delete()
            try:
                result: Any = trainer(work, decoded).fit()
                return result.return_value
            except TrainingFailedError as error:
                if told := as_user_error(error):
                    raise told from error
                if TrainingState.of(task.out).slot <= before:
                    raise
                reason = str(error).strip().splitlines()[0]
                say(f"{task.title} · workers were lost ({reason}); it goes on from the checkpoint")
    finally:
        (task.out / _TRAIN).delete()


class _Trainer(TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to session.py, as in every other stage.

        Ray Train's handler would abort with exit code 0, and stay when the training is over.
        """


def trainer(work: WorkerTask, decoded: Callable[[], ray.data.Dataset]) -> TorchTrainer:
    """One attempt at the task (`worker.train_worker`), fed by the dataset that `decoded` makes."""
    config, out = work.task.config, work.task.out
    learning = config.learning
    asked = training(learning, config.resources, work.device)
    resources = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"]}
    least = learning.min_workers
    # Slots are dealt to the workers in turn: blocks are handed out in order, and each is one.
    feeding = ExecutionOptions(preserve_order=True)
    if learning.max_prefetch_mb:
        bytes_waiting = learning.max_prefetch_mb * 2**20
        feeding.resource_limits = ExecutionResources.for_limits(object_store_memory=bytes_waiting)
    return _Trainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=(least, learning.workers) if least else learning.workers,  # type: ignore[arg-type]
            use_gpu=work.device == "cuda",
            resources_per_worker={name: value for name, value in resources.items() if value},
            label_selector=asked.get("label_selector"),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=_TRAIN,
            storage_path=out.path,
            storage_filesystem=out.fs,
            failure_config=FailureConfig(max_failures=_FAILURES),
            callbacks=[HopelessEnds()],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": KEEPS_MEMORY if work.device == "cpu" else {}},
        ),
        datasets={"train": decoded},
        dataset_config=DataConfig(execution_options=feeding),
    )
