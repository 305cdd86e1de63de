"""What each training worker runs: batches from Ray Data, steps of the `Learner`, metrics back.

Ray Train's controller and helpers import this module too: what is heavy is imported by the
function that needs it, which spares seconds of every round on small machines.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train

from pipeline.clips.table import write_rejects
from pipeline.config import Config


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """What each training worker runs; rank 0's return value is the update's metrics."""
    from ray.train.torch import prepare_model

    from pipeline.devices import use_threads
    from pipeline.learner import Learner

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
    import torch

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
