"""Update the encoders to predict pseudo-labels: Ray Train runs the workers, Ray Data feeds them.

One call of `learn` is one update of a method: new heads, a new optimiser, a fixed schedule of
batches, at most ``learning.epochs`` epochs. The body (`Learner`) knows nothing of Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.data import DataContext, ExecutionOptions
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from pipeline.clips.stream import Augment, Order, stream
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config
from pipeline.devices import choose_device, use_threads
from pipeline.embedding import write_rejects
from pipeline.errors import UserError
from pipeline.learner import Learner
from pipeline.methods import Method, Update
from pipeline.progress import Progress
from pipeline.schedule import Schedule, draw_schedule
from pipeline.storage import Location

Labels = Mapping[str, tuple[list[ray.ObjectRef], int]]  # clustering → boxed int32 [N], and k


def learn(
    clips: ClipTable,
    published: PublishedClips,
    method: Method,
    update: Update,
    labels: Labels,
    weights: Location,
    out: Location,
    config: Config,
    key: tuple[int, ...],
    title: str,
) -> dict[str, Any]:
    """Train the update's encoders on the pseudo-labels; write weights and metrics to `out`.

    Args:
        labels: of the update's clusterings.
        weights: safetensors of both encoders before the update.
        out: folder for ``encoders.safetensors``, ``heads.safetensors``, ``rejects/`` and, last,
            ``metrics.json``.
        key: (seed, round, update): what is drawn depends on it alone.

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

    def decoded() -> ray.data.Dataset:
        return stream(
            published,
            order,
            config.clips,
            update.encoders,
            decode_cpus=config.resources.decode_cpus,
            augment=Augment(key[0], key[1]),
            labels={name: labels[name][0] for name in names},
        )

    with Progress(title, drawn * config.learning.workers, "clips") as progress:
        job = {
            "config": config.model_dump(mode="json"),
            "heads": {m: {n: labels[n][1] for n in ns} for m, ns in update.heads.items()},
            "weights": weights,
            "out": out,
            "clips": clips,
            "device": device,
            "train_steps": schedule.train_steps,
            "held_out_steps": schedule.held_out_steps,
            "epochs": schedule.epochs,
            "key": key,
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


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """What each training worker runs; rank 0's return value is the update's metrics."""
    config = Config.model_validate(job["config"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    use_threads(job["device"], context.get_local_world_size(), config.learning.threads)
    device = ray.train.torch.get_device()
    learner = Learner(job["heads"], job["weights"], config, job["key"], device, prepare_model)
    shard = ray.train.get_dataset_shard("train")
    batches = iter(shard.iter_batches(batch_size=1, prefetch_batches=2))
    total_steps = job["train_steps"] * job["epochs"]
    epoch_losses: list[dict[str, float]] = []
    refused: list[tuple[int, str, str]] = []
    started = time.monotonic()
    waiting = 0.0
    step = 0
    for epoch in range(job["epochs"]):
        sums: dict[str, list[float]] = {}
        for number in range(job["train_steps"] + job["held_out_steps"]):
            held_out = number >= job["train_steps"]
            waited = time.monotonic()
            batch = {name: column[0] for name, column in next(batches).items()}
            waiting += time.monotonic() - waited
            refused += [tuple(reject) for reject in json.loads(str(batch["rejects"]))]
            expected = (
                epoch * (job["train_steps"] + job["held_out_steps"]) + number
            ) * world + rank
            if int(batch["slot"]) != expected:
                raise RuntimeError(f"batch {int(batch['slot'])} came where {expected} was due")
            if held_out:
                losses = learner.evaluate(batch)
            else:
                losses = learner.step(batch, step / total_steps)
                step += 1
            for name, value in losses.items():
                sums.setdefault(name, []).append(value)
            if rank == 0 and not held_out:
                shown = {k: round(v, 3) for k, v in losses.items() if k.startswith("loss")}
                share = waiting / (time.monotonic() - started)
                job["meter"].add.remote(done=world * config.learning.batch_size)
                job["meter"].note.remote(epoch=epoch + 1, waiting=f"{share:.0%}", **shown)
        epoch_losses.append(_mean_over_workers(sums))
        if learner.should_stop([losses.get("held_out_loss") for losses in epoch_losses]):
            break
    _write_refused(refused, rank, job)
    if rank == 0:
        learner.save(job["weights"], job["out"])
    seconds = time.monotonic() - started
    return {
        "epochs": epoch_losses,
        "steps": step,
        "clips": step * world * config.learning.batch_size,
        "wait_share": round(waiting / max(seconds, 1e-9), 4),
        "train_seconds": round(seconds, 2),
        "workers": world,
        "rejected": len(refused),
    }


def _mean_over_workers(sums: dict[str, list[float]]) -> dict[str, float]:
    """Means of an epoch's values; the same numbers, hence the same decisions, on every worker."""
    means = torch.tensor([float(np.mean(values)) for values in sums.values()])
    if torch.distributed.is_initialized():
        device = ray.train.torch.get_device()
        means = means.to(device)
        torch.distributed.all_reduce(means)
        means = means.cpu() / torch.distributed.get_world_size()
    return dict(zip(sums, means.tolist()))


def _write_refused(refused: list[tuple[int, str, str]], rank: int, job: dict[str, Any]) -> None:
    if refused:
        unique = {reject[0]: reject for reject in refused}
        index, reason, detail = zip(*unique.values())
        failed = pa.table(
            {
                "clip_index": pa.array(index, pa.int64()),
                "reason": pa.array(reason, pa.string()),
                "detail": pa.array(detail, pa.string()),
            }
        )
        place = job["out"] / "rejects" / f"learn-{rank:04d}.parquet"
        write_rejects(place, failed, job["clips"], "learn")
