"""How batches reach the training workers: a dataset of its own for each, over its own slots.

Slots are dealt to the workers in turn. One dataset that all of them shared would pass every batch
through one process, in order; so each has its own executor, beside it, and a share of the cluster.
Imports no torch: decoding begins before a worker has loaded it.
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

from pipeline.clips.rejects import RejectedClip, kind_of_loss
from pipeline.clips.stream import batches_of
from pipeline.learning.media_watch import MediaWatch
from pipeline.runtime.ray_data import Share, iterator_on, set_up_ray_data

# The dataset of the batches of these slots, int64 [n], prepared on the node with this id.
Batches = Callable[[np.ndarray, str], ray.data.Dataset]


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

    def fed(self, first: int, rank: int, world: int) -> ray.data.DataIterator:
        """The rows of the worker of this process: its slots, from number `first` on.

        Their executor runs beside it, in a process that ends with this one.
        """
        set_up_ray_data(feeding=True, share=Share(world, world * self.worker_cpus))
        options = ExecutionOptions(preserve_order=True)
        if self.max_bytes:
            most = self.max_bytes // world
            options.resource_limits = ExecutionResources.for_limits(object_store_memory=most)
        node = ray.get_runtime_context().get_node_id()
        dataset = self.batches(np.arange(first + rank, self.num_slots, world), node)
        dataset.context.execution_options = options
        return iterator_on(dataset, node)


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
