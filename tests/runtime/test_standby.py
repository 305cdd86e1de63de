"""Nodes of the next stage are asked for ahead, and given up when it begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import ray
from ray.util import placement_group_table

from pipeline.config import ResourcesConfig
from pipeline.runtime.standby import Standby


@dataclass
class Stage:
    left: float | None

    def left_s(self) -> float | None:
        return self.left


def groups() -> list[str]:
    """States of the placement groups that hold something or wait for it."""
    states = [group["state"] for group in placement_group_table().values()]
    return [state for state in states if state != "REMOVED"]


def wait_for(count: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if len(groups()) == count:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.usefixtures("local_ray")
def test_nodes_are_asked_for_when_little_is_left() -> None:
    options = {"num_cpus": 0.1, "num_gpus": 0}
    resources = ResourcesConfig(roles=True, lead_minutes=1.0)
    before = len(groups())
    standby = Standby(options, 2, resources)
    stage = Stage(left=None)
    standby.before(stage.left_s)
    assert not wait_for(before + 1, 3), "the rate is not known yet"
    stage.left = 90.0
    assert not wait_for(before + 1, 3), "more than the lead is left"
    stage.left = 59.0
    assert wait_for(before + 1, 30)
    standby.release()
    assert wait_for(before, 30)

    never = Standby(options, 2, ResourcesConfig(roles=True, lead_minutes=0.0))
    never.before(Stage(left=1.0).left_s)
    assert not wait_for(before + 1, 3)
    never.release()
    assert ray.is_initialized()
