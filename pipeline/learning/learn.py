"""Update the encoders to predict pseudo-labels: Ray Train runs the workers, Ray Data feeds them.

One call of `learn` is one update of a method: new heads, a new optimiser, a fixed schedule of
batches, at most ``learning.epochs`` epochs. What a worker does is in worker.py, what one step does
in learner.py, which knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from ray.data import DataContext, ExecutionOptions, ExecutionResources
from ray.train import (
    DataConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from pipeline.clips.stream import Augment, Order, stream
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config, LearningConfig
from pipeline.errors import UserError
from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.learning.schedule import Schedule, draw_schedule
from pipeline.learning.worker import train_worker
from pipeline.methods import Method, Update
from pipeline.runtime.devices import KEEPS_MEMORY, choose_device
from pipeline.runtime.placement import decoding, on_driver_node, training
from pipeline.runtime.ray_data import set_up_ray_data
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress, say

_TRAIN = "train"  # Ray Train's own folder in the update's
_FAILURES = 3  # that Ray Train mends by itself before `_fit` looks whether they got any further

Labels = Mapping[str, tuple[list[ray.ObjectRef], int]]  # clustering → boxed int32 [N], and k


def learn(
    clips: ClipTable,
    published: PublishedClips,
    method: Method,
    update: Update,
    labels: Labels,
    weights: Location,
    out: Location,
    refused: Location,
    config: Config,
    key: tuple[int, ...],
    title: str,
    frozen: bool = False,
    bank: Mapping[str, Location] | None = None,
) -> dict[str, Any]:
    """Train the update's encoders on the pseudo-labels; write weights and metrics to `out`.

    Args:
        labels: of the update's clusterings.
        weights: safetensors of both encoders before the update.
        out: folder for ``encoders.safetensors``, ``heads.safetensors`` and, last, ``metrics.json``.
        refused: folder for the rejects of this update, beside those of other stages.
        key: (seed, round, update): what is drawn depends on it alone.
        frozen: only the heads learn (evaluation).
        bank: modality → folder for the features that training computes anyway; None: not kept.

    Returns:
        The metrics that were written.

    Raises:
        UserError: no clip has the labels this update needs.
    """
    names = update.clusterings
    schedule: Schedule = ray.get(
        draw_schedule.options(**on_driver_node()).remote(
            clips,
            [labels[name][0] for name in names],
            _needs_all_labels(method, update),
            config.learning,
            key,
        )
    )
    if schedule.labelled == 0:
        raise UserError(
            f"no clip has the pseudo-labels that {'/'.join(update.encoders)} should learn "
            f"({', '.join(names)}): do the clips have both picture and sound?"
        )
    order = Order(
        length=len(schedule.order),
        batch_size=config.learning.batch_size,
        indices=[ray.put(schedule.order)],
        held_out=[ray.put(schedule.held_out)],
    )
    device = choose_device(config.resources)
    if config.learning.sync_batchnorm and device != "cuda":
        raise UserError("learning.sync_batchnorm needs GPUs: torch has it for them alone")
    global_batch = config.learning.batch_size * config.learning.step_batches
    drawn = schedule.epochs * schedule.train_steps * global_batch

    cost = decoding(config.resources, config.clips.decoder, packed=True)

    def decoded() -> ray.data.Dataset:
        # Ray Train calls this in a process of its own, for every new group of workers.
        set_up_ray_data(feeding=True)
        first = TrainingState.of(out).slot
        return stream(
            published,
            order,
            config.clips,
            update.encoders,
            cost=cost,
            augment=Augment(key[0], key[1]),
            labels={name: labels[name][0] for name in names},
            slots=np.arange(first, order.num_slots),
        )

    digest = schedule.digest
    state = TrainingState.of(out)
    if state.slot and state.schedule != digest:
        say(f"{title} · begins anew: its checkpoint is of other clips, labels or settings")
        Checkpoints(out).delete()
    refused_as = f"learn-{key[-1]}"
    begun = _position(out, schedule, config)
    if begun:
        say(f"{title} · goes on after {begun:,} of {drawn:,} clips")
    for earlier in refused.files():
        if earlier.name.startswith(refused_as) and not begun:
            earlier.delete()
    with Progress(title, drawn - begun, "clips") as progress:
        job = {
            "config": config.model_dump(mode="json"),
            "heads": {m: {n: labels[n][1] for n in ns} for m, ns in update.heads.items()},
            "weights": weights,
            "out": out,
            "refused": refused,
            "refused_as": refused_as,
            "clips": clips,
            "device": device,
            "schedule": digest,
            "train_steps": schedule.train_steps,
            "held_out_steps": schedule.held_out_steps,
            "epochs": schedule.epochs,
            "key": key,
            "frozen": frozen,
            "bank": bank,
            "last_seen": [ray.put(schedule.last_seen())] if bank else None,
            "meter": progress.meter,
        }
        metrics = _fit(job, decoded, config, out, title)
    metrics |= {
        "labelled": schedule.labelled,
        "skipped": schedule.skipped,
        "seconds": round(progress.seconds, 2),
    }
    (out / "metrics.json").write_json(metrics)
    Checkpoints(out).delete()
    return metrics


def _position(out: Location, schedule: Schedule, config: Config) -> int:
    """Training clips that an earlier attempt's checkpoint covers."""
    per_step = config.learning.step_batches
    steps = TrainingState.of(out).slot // per_step
    epoch, step = divmod(steps, schedule.train_steps + schedule.held_out_steps)
    done = epoch * schedule.train_steps + min(step, schedule.train_steps)
    return done * per_step * config.learning.batch_size


def _needs_all_labels(method: Method, update: Update) -> bool:
    """Whether a clip must have every label: not where each encoder learns from itself alone."""
    return any(
        modality not in method.clusterings[name] or len(method.clusterings[name]) > 1
        for modality, names in update.heads.items()
        for name in names
    )


def _fit(
    job: dict[str, Any], decoded: Any, config: Config, out: Location, title: str
) -> dict[str, Any]:
    """Train until it is done, or until attempts fail without getting any further."""
    DataContext.get_current().execution_options.preserve_order = True
    try:
        while True:
            before = TrainingState.of(out).slot
            (out / _TRAIN).delete()
            try:
                result: Any = trainer(job, decoded, config, out).fit()
                return result.return_value
            except TrainingFailedError as error:
                if TrainingState.of(out).slot <= before:
                    raise
                reason = str(error).strip().splitlines()[0]
                say(f"{title} · workers were lost ({reason}); it goes on from the checkpoint")
    finally:
        DataContext.get_current().execution_options.preserve_order = False
        (out / _TRAIN).delete()


class _Trainer(TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Ctrl-C ends the job, as in every other stage (session.py).

        Ray Train's handler would abort the training and leave with exit code 0, and it would
        stay when the training is over.
        """


def trainer(job: dict[str, Any], decoded: Any, config: Config, out: Location) -> TorchTrainer:
    """One attempt at the job (`worker.train_worker`), fed by the dataset that `decoded` makes."""
    learning = config.learning
    asked = training(learning, config.resources, job["device"])
    resources = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"]}
    workers: int | tuple[int, int] = learning.workers
    if learning.min_workers:
        workers = (learning.min_workers, learning.workers)
    return _Trainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=job,
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,  # type: ignore[arg-type]
            use_gpu=job["device"] == "cuda",
            resources_per_worker={name: value for name, value in resources.items() if value},
            label_selector=asked.get("label_selector"),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=_TRAIN,
            storage_path=out.path,
            storage_filesystem=out.fs,
            failure_config=FailureConfig(max_failures=_FAILURES),
            worker_runtime_env={"env_vars": KEEPS_MEMORY if job["device"] == "cpu" else {}},
        ),
        datasets={"train": decoded},
        dataset_config=DataConfig(execution_options=_feeding(learning)),
    )


def _feeding(learning: LearningConfig) -> ExecutionOptions:
    # Slots are dealt to the workers in turn: blocks are handed out in order, and each is one.
    options = ExecutionOptions(preserve_order=True)
    if learning.prefetch_mb:
        bytes_waiting = learning.prefetch_mb * 2**20
        options.resource_limits = ExecutionResources.for_limits(object_store_memory=bytes_waiting)
    return options
