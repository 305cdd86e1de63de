"""What each training worker runs: batches from Ray Data, steps of the `Learner`, metrics back.

Ray Train's controller and helpers import this module too: what is heavy is imported by the
function that needs it, which spares seconds of every round on small machines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train

from pipeline.clips.table import write_rejects
from pipeline.config import Config
from pipeline.progress import Meter

Batch = dict[str, np.ndarray]


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Train for a round; rank 0's return value is the update's metrics.

    Every worker takes the same decisions, since losses are averaged over workers first.
    """
    from ray.train.torch import prepare_model

    from pipeline.devices import use_threads
    from pipeline.learner import Learner

    config = Config.model_validate(job["config"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    use_threads(job["device"], context.get_local_world_size(), config.learning.threads)
    device = ray.train.torch.get_device()
    learner = Learner(
        job["heads"],
        job["weights"],
        config,
        job["key"],
        device,
        prepare_model,
        frozen=job["frozen"],
    )
    feed = Feed(ray.train.get_dataset_shard("train"), rank, world)
    total_steps = job["train_steps"] * job["epochs"]
    epochs: list[dict[str, float]] = []
    while len(epochs) < job["epochs"]:
        values: dict[str, list[float]] = {}
        for number in range(job["train_steps"]):
            step = len(epochs) * job["train_steps"] + number
            losses = learner.step(next(feed), step / total_steps)
            _collect(values, losses)
            if rank == 0:
                _show(job["meter"], world * config.learning.batch_size, len(epochs), feed, losses)
        for _ in range(job["held_out_steps"]):
            _collect(values, learner.evaluate(next(feed)))
        epochs.append(_mean_over_workers(values))
        if learner.should_stop([losses.get("held_out_loss") for losses in epochs]):
            break
    _write_refused(feed.refused, rank, job)
    if rank == 0:
        learner.save(job["out"])
    steps = len(epochs) * job["train_steps"]
    return {
        "epochs": epochs,
        "steps": steps,
        "clips": steps * world * config.learning.batch_size,
        "wait_share": round(feed.wait_share, 4),
        "train_seconds": round(feed.seconds, 2),
        "workers": world,
        "rejected": len(feed.refused),
    }


class Feed(Iterator[Batch]):
    """A worker's batches in their order; notes the time spent waiting and what was rejected.

    Raises:
        RuntimeError: Ray Data handed this worker a batch that was another's.
    """

    def __init__(self, shard: ray.data.DataIterator, rank: int, world: int) -> None:
        self._batches = iter(shard.iter_batches(batch_size=1, prefetch_batches=2))
        self._due, self._world = rank, world
        self._started = time.monotonic()
        self._waited = 0.0
        self.refused: list[tuple[int, str, str]] = []

    def __next__(self) -> Batch:
        before = time.monotonic()
        batch = {name: column[0] for name, column in next(self._batches).items()}
        self._waited += time.monotonic() - before
        if int(batch["slot"]) != self._due:
            raise RuntimeError(f"batch {int(batch['slot'])} came where {self._due} was due")
        self._due += self._world
        self.refused += [tuple(reject) for reject in json.loads(str(batch["rejects"]))]
        return batch

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def wait_share(self) -> float:
        """Share of the time so far that was spent waiting for data."""
        return self._waited / max(self.seconds, 1e-9)


def _collect(values: dict[str, list[float]], losses: dict[str, float]) -> None:
    for name, value in losses.items():
        values.setdefault(name, []).append(value)


def _show(meter: Meter, clips: int, epoch: int, feed: Feed, losses: dict[str, float]) -> None:
    shown = {name: round(value, 3) for name, value in losses.items() if name.startswith("loss")}
    meter.add({"epoch": epoch + 1, "waiting": f"{feed.wait_share:.0%}", **shown}, done=clips)


def _mean_over_workers(values: dict[str, list[float]]) -> dict[str, float]:
    """Means of an epoch's values; the same numbers on every worker."""
    import torch

    means = torch.tensor([float(np.mean(numbers)) for numbers in values.values()])
    if torch.distributed.is_initialized():
        device = ray.train.torch.get_device()
        means = means.to(device)
        torch.distributed.all_reduce(means)
        means = means.cpu() / torch.distributed.get_world_size()
    return dict(zip(values, means.tolist()))


def _write_refused(refused: list[tuple[int, str, str]], rank: int, job: dict[str, Any]) -> None:
    """The clips that failed in this worker, each once, as a part of the round's rejects."""
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
        place = job["refused"] / f"{job['refused_as']}-{rank:04d}.parquet"
        write_rejects(place, failed, job["clips"], "learn")
