"""Settings of Ray Data, for every process that makes datasets."""

from __future__ import annotations

import time

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

_NO_PROGRESS_S = 1800
_TURN_S = 0.1


def set_up_ray_data() -> None:
    """Quiet, unordered (what needs an order asks for it), and paced; see `Pace`."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    context.custom_execution_callback_classes = [Pace]


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
