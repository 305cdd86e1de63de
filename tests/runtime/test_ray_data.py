"""Ray Data as every stage uses it."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import pytest
import ray.data
from ray.data._internal.cluster_autoscaler.resource_utilization_gauge import ClusterUtil

from pipeline.runtime.ray_data import (
    Demand,
    Divide,
    Forget,
    Pace,
    Share,
    iterator_on,
    set_up_ray_data,
    share_of,
)


@pytest.mark.usefixtures("local_ray")
def test_every_dataset_is_paced() -> None:
    turns = []

    class Counted(Pace):
        def on_execution_step(self, executor: object) -> None:
            super().on_execution_step(executor)  # type: ignore[arg-type]
            turns.append(time.monotonic())

    set_up_ray_data()
    context = ray.data.DataContext.get_current()
    assert context.custom_execution_callback_classes[0] is Pace
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


@pytest.mark.usefixtures("local_ray")
def test_no_statistics_of_blocks_are_kept() -> None:
    """Ray keeps 1 KB of every block for them; else `Forget` has served its time."""
    kept: list[int] = []

    class Kept(Pace):
        def on_execution_step(self, executor: Any) -> None:
            of = [len(getattr(op, "_output_blocks_stats", ())) for op in executor._topology]
            kept.append(max(of))

    def most(*callbacks: type) -> int:
        set_up_ray_data()
        context.custom_execution_callback_classes = [*callbacks, Kept]
        blocks = [pa.table({"id": [number]}) for number in range(40)]
        data = ray.data.from_blocks(blocks).map_batches(lambda x: x, num_cpus=0.1)
        kept.clear()
        assert len(data.take_all()) == 40
        return max(kept)

    context = ray.data.DataContext.get_current()
    try:
        assert (most(Pace), most(Pace, Forget)) == (40, 0)
    finally:
        set_up_ray_data()


@pytest.mark.usefixtures("local_ray")
def test_of_many_datasets_each_takes_its_share() -> None:
    """Nine on nodes of 16 cores have all 16 of them together; Ray alone would give them 9."""
    core = {"CPU": 16.0, "memory": 32e9, "object_store_memory": 9e9}
    nodes = [{"Alive": True, "Resources": core} for _ in range(3)]
    nodes += [{"Alive": False, "Resources": core}]
    nodes += [{"Alive": True, "Resources": {"object_store_memory": 9e9}}]  # a head without work
    share = share_of(Share(datasets=9, held_cpus=3.0), nodes)
    assert (share.cpu, share.gpu) == (5.0, 0.0)
    assert share.object_store_memory == 3e9
    seen = []

    class Watched(Divide):
        def on_execution_step(self, executor: Any) -> None:
            seen.append(executor._resource_manager.get_global_limits().cpu)

    cluster = ray.cluster_resources()["CPU"]
    context = ray.data.DataContext.get_current()
    try:
        set_up_ray_data(share=Share(datasets=4, held_cpus=0))
        context.custom_execution_callback_classes = [Watched]
        assert len(ray.data.range(8).take_all()) == 8
    finally:
        set_up_ray_data()
    assert seen[-1] == cluster / 4


@pytest.mark.usefixtures("local_ray")
def test_an_iterator_has_all_rows_in_their_order_and_again() -> None:
    set_up_ray_data()
    blocks = [pa.table({"id": [number]}) for number in range(20)]
    dataset = ray.data.from_blocks(blocks).map_batches(lambda x: x, num_cpus=0.1)
    dataset.context.execution_options.preserve_order = True
    iterator = iterator_on(dataset, ray.get_runtime_context().get_node_id())
    for _ in range(2):
        assert [int(b["id"][0]) for b in iterator.iter_batches(batch_size=1)] == list(range(20))
