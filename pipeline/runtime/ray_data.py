"""Settings of Ray Data, for every process that makes datasets."""

from __future__ import annotations

import time

from ray.data import DataContext
from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler
from ray.data._internal.cluster_autoscaler.resource_utilization_gauge import ClusterUtil
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

_NO_PROGRESS_S = 1800
_TURN_S = 0.1
_BUSY = 0.9  # share of the CPUs that decode, from which on more are asked for
_NEVER = 1e9


def set_up_ray_data(feeding: bool = False) -> None:
    """Quiet, unordered (what needs an order asks for it), and paced; see `Pace`.

    Args:
        feeding: the datasets feed a training; see `Demand`.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    context.custom_execution_callback_classes = [Pace, Demand] if feeding else [Pace]


class Pace(ExecutionCallback):
    """Gives Ray Data's scheduling loop 0.1 s a turn where it would take less than half of that.

    A turn waits up to 0.1 s for decoding tasks. While every output waits for its consumer there
    are none to wait for, and in Ray 2.60 the loop then takes half a core and more from the very
    training that it waits for.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        took = time.monotonic() - self._since
        if took < _TURN_S / 2:
            time.sleep(_TURN_S - took)
        self._since = time.monotonic()


class Demand(ExecutionCallback):
    """More nodes are asked for while decoding is what is slow, and no longer.

    To Ray Data 2.60 object stores full of decoded batches are a reason to double the cluster, and
    what it once asked for stands until the dataset ends. Where a training takes batches more slowly
    than they are decoded they are always full, and the nodes that it does not need would stay.
    """

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        autoscaler = executor._cluster_autoscaler
        if isinstance(autoscaler, RateBasedClusterAutoscaler):
            autoscaler._cluster_scaling_up_util_threshold = ClusterUtil(
                cpu=_BUSY, gpu=_BUSY, memory=_BUSY, object_store_memory=_NEVER
            )

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        autoscaler = executor._cluster_autoscaler
        if isinstance(autoscaler, RateBasedClusterAutoscaler):
            autoscaler._last_resource_request = []  # what it repeats while CPUs are not busy
