"""How batches reach the training workers: a dataset of its own for each, over its own slots.

Slots are dealt to the workers in turn. One dataset that all of them shared would pass every batch
through one process, in order; so each has its own executor, beside it, and a share of the cluster.
Imports no torch: Ray Train starts a process that makes the datasets, for every group of workers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ExecutionOptions, ExecutionResources
from ray.train import DataConfig

from pipeline.clips.rejects import RejectedClip, kind_of_loss
from pipeline.clips.stream import batches_of
from pipeline.learning.media_watch import MediaWatch
from pipeline.runtime.ray_data import Share, iterator_on, set_up_ray_data

# The dataset of the batches of these slots, int64 [n], prepared on the node with this id.
Batches = Callable[[np.ndarray, str], ray.data.Dataset]
_FIRST = "xdc_first"  # name of a setting in the context of `beginning`


@dataclass(frozen=True)
class Plan:
    """Which slots are to come, and what feeding may take.

    Attributes:
        num_slots: of the whole schedule.
        max_bytes: of decoded batches that wait, on all nodes together; 0: no bound of its own.
        worker_cpus: logical CPUs that a worker holds: the others are shared.
    """

    batches: Batches
    num_slots: int
    max_bytes: int
    worker_cpus: float


def beginning(first: int) -> ray.data.Dataset:
    """An empty dataset that tells `DatasetEach` the number of the first slot."""
    dataset = ray.data.from_blocks([])
    dataset.context.set_config(_FIRST, first)
    return dataset


class DatasetEach(DataConfig):
    """Gives every training worker the dataset of its own slots, in the place of `beginning`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def configure(
        self,
        datasets: dict[str, ray.data.Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: list[str] | None,
        **_: Any,
    ) -> list[dict[str, ray.data.DataIterator]]:
        """Ray Train calls it once for a group of workers."""
        plan, ((name, given),) = self._plan, datasets.items()
        first = given.context.get_config(_FIRST)
        set_up_ray_data(feeding=True, share=Share(world_size, world_size * plan.worker_cpus))
        options = ExecutionOptions(preserve_order=True)
        if plan.max_bytes:
            most = plan.max_bytes // world_size
            options.resource_limits = ExecutionResources.for_limits(object_store_memory=most)
        found = []
        for rank, node in enumerate(worker_node_ids or []):
            dataset = plan.batches(np.arange(first + rank, plan.num_slots, world_size), node)
            dataset.context.execution_options = options
            found.append({name: iterator_on(dataset, node)})
        return found


def arriving(shard: ray.data.DataIterator) -> Iterator[dict[str, Any]]:
    """The batches of a worker's dataset. Decoding begins now, also if the first is taken later."""
    rows = shard.iter_batches(batch_size=1, prefetch_batches=2)
    batches = chain.from_iterable(map(batches_of, rows))
    with_first = ThreadPoolExecutor(1, thread_name_prefix="first batch")
    first = with_first.submit(next, batches, None)  # what it raises, it raises below
    with_first.shutdown(wait=False)

    def in_order() -> Iterator[dict[str, Any]]:
        if (batch := first.result()) is not None:
            yield batch
            yield from batches

    return in_order()


class Feed:
    """A worker's batches in their order; notes the time spent waiting and what was rejected.

    Raises:
        RuntimeError: Ray Data handed this worker a batch that was another's.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, Any]],
        first: int,
        rank: int,
        world: int,
        watch: MediaWatch,
    ) -> None:
        """Slots from `first` on are dealt to the workers in turn; `watch` is told of each.

        Args:
            batches: see `arriving`.
        """
        self._batches = batches
        self._due, self._world = first + rank, world
        self._started = time.monotonic()
        self._waited = 0.0
        self.first, self._watch = first, watch
        self.rejects: list[RejectedClip] = []

    def until(self, end: int) -> Iterator[dict[str, Any]]:
        """This worker's batches of the slots before `end`."""
        while self._due < end:
            before = time.monotonic()
            batch = next(self._batches)
            self._waited += time.monotonic() - before
            if int(batch["slot"]) != self._due:
                raise RuntimeError(f"batch {int(batch['slot'])} came where {self._due} was due")
            self._due += self._world
            rejects = RejectedClip.loads(batch["rejects"])
            self.rejects += rejects
            self._watch.saw(batch["clip_index"], rejects)
            yield batch

    @property
    def losses(self) -> dict[str, int]:
        """How many clips, and how many modalities of clips, could not be decoded."""
        counts = Counter(kind_of_loss(reject.modality) for reject in self.rejects)
        return {kind: counts[kind] for kind in map(kind_of_loss, (None, "video", "audio"))}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def wait_share(self) -> float:
        """Share of the time so far that was spent waiting for data."""
        return self._waited / max(self.seconds, 1e-9)
