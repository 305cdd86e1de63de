"""Update the encoders to predict pseudo-labels: Ray Train runs the workers, Ray Data feeds them.

One call of `learn` is one update of a method: new heads, a new optimiser, a fixed schedule of
batches, at most ``learning.epochs`` epochs. What a worker does is in worker.py, what one step does
in learner.py, which knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.data import DataContext, ExecutionOptions
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.clips.stream import Augment, Order, stream
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config
from pipeline.devices import choose_device
from pipeline.errors import UserError
from pipeline.methods import Method, Update
from pipeline.progress import Progress
from pipeline.schedule import Schedule, draw_schedule
from pipeline.session import decode_cost
from pipeline.storage import Location
from pipeline.streaming import set_up_ray_data
from pipeline.worker import train_worker

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
) -> dict[str, Any]:
    """Train the update's encoders on the pseudo-labels; write weights and metrics to `out`.

    Args:
        labels: of the update's clusterings.
        weights: safetensors of both encoders before the update.
        out: folder for ``encoders.safetensors``, ``heads.safetensors`` and, last, ``metrics.json``.
        refused: folder for the rejects of this update, beside those of other stages.
        key: (seed, round, update): what is drawn depends on it alone.
        frozen: only the heads learn (evaluation).

    Returns:
        The metrics that were written.

    Raises:
        UserError: no clip has the labels this update needs.
    """
    names = update.clusterings
    schedule: Schedule = ray.get(
        draw_schedule.options(num_cpus=0.25).remote(
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
    drawn = schedule.epochs * schedule.train_steps * config.learning.batch_size

    cost = decode_cost(config.resources, config.clips.decoder)

    def decoded() -> ray.data.Dataset:
        set_up_ray_data()  # Ray Train calls this in a process of its own
        return stream(
            published,
            order,
            config.clips,
            update.encoders,
            cost=cost,
            augment=Augment(key[0], key[1]),
            labels={name: labels[name][0] for name in names},
        )

    refused_as = f"learn-{key[-1]}"
    for earlier in refused.files():
        if earlier.name.startswith(refused_as):
            earlier.delete()
    with Progress(title, drawn * config.learning.workers, "clips") as progress:
        job = {
            "config": config.model_dump(mode="json"),
            "heads": {m: {n: labels[n][1] for n in ns} for m, ns in update.heads.items()},
            "weights": weights,
            "out": out,
            "refused": refused,
            "refused_as": refused_as,
            "clips": clips,
            "device": device,
            "train_steps": schedule.train_steps,
            "held_out_steps": schedule.held_out_steps,
            "epochs": schedule.epochs,
            "key": key,
            "frozen": frozen,
            "meter": progress.meter,
        }
        metrics = _fit(job, decoded, config, out, device)
    metrics |= {
        "labelled": schedule.labelled,
        "skipped": schedule.skipped,
        "seconds": round(progress.seconds, 2),
    }
    (out / "metrics.json").write_json(metrics)
    return metrics


def _needs_all_labels(method: Method, update: Update) -> bool:
    """Whether a clip must have every label: not where each encoder learns from itself alone."""
    return any(
        modality not in method.clusterings[name] or len(method.clusterings[name]) > 1
        for modality, names in update.heads.items()
        for name in names
    )


def _fit(
    job: dict[str, Any], decoded: Any, config: Config, out: Location, device: str
) -> dict[str, Any]:
    learning = config.learning
    # Batches reach worker r in the order of slots r, r + workers, …: blocks are handed out in
    # turn, and each is one batch.
    options = ExecutionOptions(preserve_order=True)
    DataContext.get_current().execution_options.preserve_order = True
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=learning.workers,
            use_gpu=device == "cuda",
            resources_per_worker=_worker_resources(config, device),
        ),
        run_config=RunConfig(
            name="train",
            storage_path=out.path,
            storage_filesystem=out.fs,
            failure_config=FailureConfig(max_failures=3),
        ),
        datasets={"train": decoded},
        dataset_config=DataConfig(execution_options=options),
    )
    try:
        result: Any = trainer.fit()
        return result.return_value
    finally:
        DataContext.get_current().execution_options.preserve_order = False


def _worker_resources(config: Config, device: str) -> dict[str, float]:
    resources = {"CPU": config.learning.cpus_per_worker}
    return {**resources, "GPU": 1.0} if device == "cuda" else resources
