"""Settings of Ray Data, for every process that makes datasets.

What is private in Ray is used here alone, each for the reason given at its import.
tests/runtime/test_ray_data.py runs datasets through all of it and fails when Ray changes it.
"""

from __future__ import annotations

import time
from typing import Any

from ray.data import DataContext

# `Demand` needs both: Ray's public thresholds (RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_*) are read at
# import and hold for all datasets of a process, and no setting makes it forget an old request.
from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler
from ray.data._internal.cluster_autoscaler.resource_utilization_gauge import ClusterUtil

# The public `DataContext.custom_execution_callback_classes` takes subclasses of this class.
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.debug import log_once

_TURN_S = 0.1
_BUSY = 0.9  # share of the CPUs that decode, from which on more are asked for


def set_up_ray_data(feeding: bool = False) -> None:
    """Make datasets silent, unordered by default, paced; if `feeding` a training, with `Demand`."""
    log_once("ray_data_progress_manager_disabled")  # a warning that is not worth a line
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = 7200  # `Watchdog` acts before that
    context.custom_execution_callback_classes = [Pace, Demand] if feeding else [Pace]


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
