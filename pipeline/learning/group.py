"""Groups of training workers: Ray Train runs them; one after another, they take on updates.

To start a group takes some ten seconds of a small machine's processors: Ray Train's controller, its
helpers and the workers import one after another. So the workers stay from one update to the next
where nothing else needs what they hold.
"""

from __future__ import annotations

import math
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.config import Config
from pipeline.learning.desk import Desk
from pipeline.learning.task import WorkerTask
from pipeline.learning.worker import serve
from pipeline.runtime import demands
from pipeline.runtime.cluster_address import given_address
from pipeline.runtime.demands import Need
from pipeline.runtime.placement import (
    KEEPS_MEMORY,
    Options,
    clustering,
    on_this_node,
    training,
)
from pipeline.runtime.ray_train import HopelessEnds
from pipeline.storage import Location

FAILURES = 3  # that Ray Train mends by itself before `TrainingGroup.train` raises
_NAME = "train"  # of Ray Train's own folder
_END_S = 60.0


class DeskLost(Exception):
    """The workers' updates were to come from a process that died."""


class TrainingGroup:
    """Training workers that may stay between updates; for a ``with`` statement around these."""

    def __init__(self) -> None:
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def train(self, work: WorkerTask) -> dict[str, Any]:
        """Have workers do an update, those that stand ready or new ones; return its metrics.

        Raises:
            TrainingFailedError: workers were lost again and again, or met what others would meet.
            RayActorError: Ray Train's controller died.
            DeskLost: so did the group's desk.
        """
        if self._running is not None and not self._running.is_for(work):
            self.close()
        if self._running is None:
            self._running = _Running(work)
        running, self._running = self._running, None
        try:
            metrics = running.train(work)
        except BaseException:
            running.give_up()
            raise
        self._running = running
        if not may_stay(work.task.config, len(work.task.clips), work.device):
            self.close()
        return metrics

    def close(self) -> None:
        """Let the workers go."""
        if self._running is not None:
            self._running.end()
            self._running = None


def may_stay(config: Config, num_clips: int, device: str) -> bool:
    """Whether every other stage of a round with so many clips fits beside its training workers.

    On a cluster, others may need what they hold, and nodes with nothing to do should go. On GPUs,
    encoder actors need those that the workers hold.
    """
    if device != "cpu" or given_address():
        return False
    blocks = math.ceil(num_clips / config.clustering.block_size)
    shards = min(config.clustering.shards, blocks)
    clusters = Need("shard of k-means", shards, clustering(config.clustering, config.resources), "")
    options = training(config.learning, config.resources, device)
    workers = Need("training worker", config.learning.workers, options, "")
    stages = (demands.embedding(config), [clusters])
    return not any(demands.lacking([workers, *stage]) for stage in stages)


class _Running:
    """One run of Ray Train, in a thread, until it is told to end."""

    def __init__(self, work: WorkerTask) -> None:
        self._like = _alike(work)
        self._desk: Any = Desk.options(**on_this_node()).remote()  # type: ignore[attr-defined]
        # Ray Train keeps little there, and nothing that anybody reads afterwards.
        self._local = None if given_address() else tempfile.TemporaryDirectory(prefix="train-")
        self._folder = Location.of(self._local.name) if self._local else work.task.out
        (self._folder / _NAME).delete()
        self._trainer = _trainer(work, self._desk, self._folder)
        self._ended = Future[None]()
        # Beside the main thread Ray Train leaves Ctrl-C to session.py, as in every other stage.
        threading.Thread(target=self._fit, name="Ray Train", daemon=True).start()

    def is_for(self, work: WorkerTask) -> bool:
        return not self._ended.done() and self._like == _alike(work)

    def train(self, work: WorkerTask) -> dict[str, Any]:
        done = self._desk.give.remote([ray.put(work)]).future()
        wait([done, self._ended], return_when=FIRST_COMPLETED)
        if not self._ended.done() and isinstance(done.exception(), RayActorError):
            wait([self._ended])  # they see it soon, and no others may work at the same update
            raise DeskLost("the process that hands out updates died")
        if self._ended.done():
            self._ended.result()  # raises what ended it
        return dict(done.result())

    def end(self) -> None:
        """Workers that wait end at once."""
        with suppress(RayError):
            ray.get(self._desk.close.remote(), timeout=_END_S)
            wait([self._ended], timeout=_END_S)
        self.give_up()

    def give_up(self) -> None:
        """Workers that are at work see after some steps that their desk is gone, and end."""
        ray.kill(self._desk)
        (self._folder / _NAME).delete()
        if self._local:
            self._local.cleanup()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)


def _trainer(work: WorkerTask, desk: Any, folder: Location) -> TorchTrainer:
    config, options = work.task.config, _options(work)
    resources = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
    workers, least = config.learning.workers, config.learning.min_workers
    return TorchTrainer(
        serve,
        train_loop_config={"desk": desk},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=(least, workers) if least else workers,  # type: ignore[arg-type]
            use_gpu=work.device == "cuda",
            resources_per_worker={name: value for name, value in resources.items() if value},
            label_selector=options.get("label_selector"),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=_NAME,
            storage_path=folder.path,
            storage_filesystem=folder.fs,
            failure_config=FailureConfig(max_failures=FAILURES),
            callbacks=[HopelessEnds()],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": KEEPS_MEMORY if work.device == "cpu" else {}},
        ),
    )


def _options(work: WorkerTask) -> Options:
    return training(work.task.config.learning, work.task.config.resources, work.device)


def _alike(work: WorkerTask) -> tuple[Any, ...]:
    """Updates for which this is equal may share a group."""
    learning = work.task.config.learning
    return work.device, learning.workers, learning.min_workers, _options(work)
