from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PLACE = Path(__file__).resolve().parents[1] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(PLACE.read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_the_head_does_no_work(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"], "never on spot"


def test_the_rest_scales_from_nothing_and_fits_the_limit(cluster: dict[str, Any]) -> None:
    """Ray itself does not notice a minimum above a maximum."""
    workers = {n: t for n, t in cluster["available_node_types"].items() if n != "head"}
    assert all(0 == t["min_workers"] < t["max_workers"] for t in workers.values())
    assert sum(t["max_workers"] for t in workers.values()) <= cluster["max_workers"]
    spot = {n for n, t in workers.items() if "InstanceMarketOptions" in t["node_config"]}
    assert spot == {"decode", "gpu-spot"}
    assert workers["gpu-spot"]["priority"] > workers["gpu"]["priority"]


def test_it_is_locked(cluster: dict[str, Any]) -> None:
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
