"""Ray Data as every stage uses it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray.data
from ray.data._internal.cluster_autoscaler.resource_utilization_gauge import ClusterUtil

from pipeline.runtime.ray_data import Demand, Pace, set_up_ray_data


@pytest.mark.usefixtures("local_ray")
def test_every_dataset_is_paced() -> None:
    turns = []

    class Counted(Pace):
        def on_execution_step(self, executor: object) -> None:
            super().on_execution_step(executor)  # type: ignore[arg-type]
            turns.append(time.monotonic())

    set_up_ray_data()
    context = ray.data.DataContext.get_current()
    assert context.custom_execution_callback_classes == [Pace]
    context.custom_execution_callback_classes = [Counted]
    try:
        assert len(ray.data.range(8).take_all()) == 8
    finally:
        set_up_ray_data()
    assert turns, "Ray Data calls it"


def test_quick_turns_are_slowed() -> None:
    pace = Pace()
    start = time.monotonic()
    for _ in range(5):
        pace.on_execution_step(None)  # type: ignore[arg-type]
    assert time.monotonic() - start >= 0.5 - 1e-3


@pytest.mark.usefixtures("local_ray")
def test_full_buffers_ask_for_no_nodes_and_nothing_stays_asked_for() -> None:
    """Of the autoscaler of Ray Data's own, where a training is fed and where it is not."""
    seen: dict[str, tuple[bool, bool, list[dict[str, float]]]] = {}
    name, idle = "", ClusterUtil(*[1e9] * 4)

    class Watched(Demand):
        def on_execution_step(self, executor: Any) -> None:
            autoscaler = executor._cluster_autoscaler
            full, busy = ClusterUtil(object_store_memory=1.0), ClusterUtil(cpu=1.0)
            low = [autoscaler._is_cluster_utilization_low(util) for util in (full, busy)]
            # What it asks for next, of nodes that are not busy, after it asked for one CPU.
            autoscaler._cluster_scaling_up_util_threshold = idle
            autoscaler._last_resource_request = [{"CPU": 1.0}]
            if name == "feeding":
                super().on_execution_step(executor)
            autoscaler._last_request_time = 0.0
            seen.setdefault(name, (*low, autoscaler.try_trigger_scaling()))

        def before_execution_starts(self, executor: Any) -> None:
            if name == "feeding":
                super().before_execution_starts(executor)

    context = ray.data.DataContext.get_current()
    try:
        for name in ("feeding", "embedding"):
            set_up_ray_data(feeding=name == "feeding")
            assert (Demand in context.custom_execution_callback_classes) == (name == "feeding")
            context.custom_execution_callback_classes = [Watched]
            assert len(ray.data.range(8).take_all()) == 8
    finally:
        set_up_ray_data()
    assert seen["feeding"] == (True, False, [])
    assert seen["embedding"] == (False, False, [{"CPU": 1.0}]), "else Demand has served its time"
