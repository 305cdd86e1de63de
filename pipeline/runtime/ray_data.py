"""Settings of Ray Data, for every process that makes datasets.

What is private in Ray is used here alone, each for the reason given at its import.
tests/runtime/test_ray_data.py runs datasets through all of it and fails when Ray changes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import DataContext, DataIterator, Dataset, ExecutionResources

# `Demand` needs both: Ray's public thresholds (RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_*) are read at
# import and hold for all datasets of a process, and no setting makes it forget an old request.
from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler
from ray.data._internal.cluster_autoscaler.resource_utilization_gauge import ClusterUtil

# The public `DataContext.custom_execution_callback_classes` takes subclasses of this class.
from ray.data._internal.execution.execution_callback import ExecutionCallback

# `iterator_on` needs both: `Dataset.streaming_split` runs the executor on the node that asks.
from ray.data._internal.iterator.stream_split_iterator import (
    SplitCoordinator,
    StreamSplitDataIterator,
)
from ray.util.debug import log_once

_SHARE = "xdc_share"  # name of a setting in Ray Data's context
_LOOK_S = 10  # between two looks at what the cluster has
_TURN_S = 0.1
_BUSY = 0.9  # share of the CPUs that decode, from which on more are asked for


@dataclass(frozen=True)
class Share:
    """Several datasets run at once, each with an equal share of what the cluster has."""

    datasets: int
    held_cpus: float  # logical CPUs that something else holds meanwhile


def set_up_ray_data(feeding: bool = False, share: Share | None = None) -> None:
    """Make datasets silent, unordered by default, paced; if `feeding` a training, with `Demand`."""
    log_once("ray_data_progress_manager_disabled")  # a warning that is not worth a line
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = 7200  # `Watchdog` acts before that
    context.custom_execution_callback_classes = [Pace, Forget]
    if feeding:
        context.custom_execution_callback_classes.append(Demand)
    if share is not None:
        context.custom_execution_callback_classes.append(Divide)
    context.set_config(_SHARE, share)


def iterator_on(dataset: Dataset, node: str) -> DataIterator:
    """Of all rows of a dataset, for one consumer; its executor runs on the node with this id.

    It ends when the process that called this does.
    """
    place = {"label_selector": {"ray.io/node-id": node}}
    coordinator = SplitCoordinator.options(max_concurrency=2, **place).remote(dataset, 1, None)  # type: ignore[attr-defined]
    return StreamSplitDataIterator(coordinator, 0, 1)


class Pace(ExecutionCallback):
    """Gives a turn of Ray Data's scheduling loop 0.1 s where it would take less than half of that.

    A turn waits up to 0.1 s for decoding tasks. While all outputs wait for their consumer there are
    none: in Ray 2.60 the loop then spins, and takes half a core or more from training (ray#63544).
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        took = time.monotonic() - self._since
        if took < _TURN_S / 2:
            time.sleep(_TURN_S - took)
        self._since = time.monotonic()


class Demand(ExecutionCallback):
    """Asks for more nodes only while decoding is the bottleneck.

    Ray Data 2.60 doubles the cluster when object stores are full of decoded batches, and keeps its
    request until the dataset ends. Object stores are always full where training takes batches more
    slowly than they are decoded, so nodes that training does not need would stay.
    """

    def before_execution_starts(self, executor: Any) -> None:
        autoscaler = executor._cluster_autoscaler
        if isinstance(autoscaler, RateBasedClusterAutoscaler):
            never = ClusterUtil(cpu=_BUSY, gpu=_BUSY, memory=_BUSY, object_store_memory=1e9)
            autoscaler._cluster_scaling_up_util_threshold = never

    def on_execution_step(self, executor: Any) -> None:
        autoscaler = executor._cluster_autoscaler
        if isinstance(autoscaler, RateBasedClusterAutoscaler):
            autoscaler._last_resource_request = []  # it would repeat this while CPUs are not busy


class Forget(ExecutionCallback):
    """Drops what Ray Data 2.60 keeps of every block for its statistics: 1 KB, until the end."""

    def on_execution_step(self, executor: Any) -> None:
        for operator in executor._topology:
            if kept := getattr(operator, "_output_blocks_stats", None):
                kept.clear()


class Divide(ExecutionCallback):
    """Gives a dataset its `Share` of the cluster.

    Ray 2.60 divides each node's CPUs among datasets as whole numbers: a node with fewer cores than
    there are datasets then counts for none of them, and one of 16 counts as 9 for nine of them.
    """

    def before_execution_starts(self, executor: Any) -> None:
        share = executor._data_context.get_config(_SHARE)
        if share and share.datasets > 1:
            executor._cluster_autoscaler.get_total_resources = _divided(share)


def _divided(share: Share) -> Callable[[], ExecutionResources]:
    looked, found = -float(_LOOK_S), ExecutionResources.zero()

    def total() -> ExecutionResources:
        nonlocal looked, found
        if time.monotonic() - looked >= _LOOK_S:
            looked, found = time.monotonic(), share_of(share, ray.nodes())
        return found

    return total


def share_of(share: Share, nodes: list[dict[str, Any]]) -> ExecutionResources:
    """What one dataset may take of nodes as `ray.nodes` gives them."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    at_work = [have for have in alive if have.get("CPU", 0) or have.get("GPU", 0)]

    def part(name: str, held: float = 0) -> float:
        return max(sum(have.get(name, 0) for have in at_work) - held, 0) / share.datasets

    return ExecutionResources(
        cpu=part("CPU", share.held_cpus),
        gpu=part("GPU"),
        memory=part("memory"),
        object_store_memory=part("object_store_memory"),
    )
