"""Which nodes do what, and for how long they are paid."""

from __future__ import annotations

import os

import pytest

from pipeline.config import ResourcesConfig
from pipeline.errors import UserError
from pipeline.planning.fleet import Fleet, NodeKind, counts_of

KINDS = (
    NodeKind("decode", 4, 32.0, 0.0, 1e9),
    NodeKind("gpu", 2, 16.0, 1.0, 1e9),
    NodeKind("head", 1, 0.0, 0.0, 1e9),
    NodeKind("memory", 1, 8.0, 0.0, 1e9),
)
CLUSTER = Fleet(KINDS, roles=True, decode_on=("decode",), device="cuda")
LAPTOP = Fleet((NodeKind("head", 1, 2.0, 0.0, 1e9),), False, ("decode",), "cpu")


def test_roles_divide_the_work() -> None:
    assert (CLUSTER.decode_cores, CLUSTER.gpus, CLUSTER.trainers) == (128.0, 2.0, 2)
    assert not CLUSTER.shares_cores
    assert (LAPTOP.decode_cores, LAPTOP.gpus, LAPTOP.trainers) == (2.0, 0.0, 1)
    assert LAPTOP.shares_cores


def test_a_role_is_paid_while_it_works_and_until_it_is_given_back() -> None:
    hour = 3600.0
    stages = [("embed", hour), ("cluster", hour), ("learn", 2 * hour), ("cluster", 60.0)]
    hours = CLUSTER.node_hours(stages, idle_s=600.0)
    assert hours["head"] == pytest.approx(4 + 1 / 60)
    assert hours["gpu"] == pytest.approx(2 * (4 + 1 / 60)), "kept through a clustering"
    assert hours["decode"] == pytest.approx(4 * (3 + 1 / 6 + 1 / 60))
    assert hours["memory"] == pytest.approx(1 + 1 / 6 + 1 / 60), "given back while learning"
    assert LAPTOP.node_hours(stages, 600.0) == {"head": pytest.approx(4 + 1 / 60)}


def test_other_numbers_of_nodes() -> None:
    assert CLUSTER.resized(counts_of("decode=8, gpu=1")).decode_cores == 256.0
    with pytest.raises(UserError, match="role 'spot', and no such node is here"):
        CLUSTER.resized({"spot": 2})
    for text in ("decode", "decode=", "=2", "decode=two", "decode=-1"):
        with pytest.raises(UserError, match="write role=count"):
            counts_of(text)


def test_a_ray_of_the_job_counts_cores_and_not_logical_cpus(local_ray: None) -> None:
    fleet = Fleet.at_hand(ResourcesConfig(local_cpus=6))
    assert fleet.decode_cores == min(os.cpu_count() or 1, 6)
    assert [kind.role for kind in fleet.kinds] == ["head"]
