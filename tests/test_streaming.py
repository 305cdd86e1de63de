"""Ray Data as every stage uses it."""

from __future__ import annotations

import time

import pytest
import ray.data

from pipeline.streaming import Pace, set_up_ray_data


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
