"""Where stages ask to live: nothing new on a laptop, nodes of their roles where there are roles."""

from __future__ import annotations

import pytest
import ray

from pipeline.config import ResourcesConfig
from pipeline.runtime import placement
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("local_ray")


def test_without_roles_no_stage_asks_for_labels() -> None:
    config = tiny()
    stages = [
        placement.decoding(config.resources),
        placement.encoding(config.resources, "cpu"),
        placement.writing(config.resources),
        placement.clustering(config.clustering, config.resources),
        placement.training(config.learning, config.resources, "cpu"),
    ]
    assert not any("label_selector" in options for options in stages)
    assert not placement.may_grow(config.resources)


def test_with_roles_every_stage_keeps_to_its_nodes() -> None:
    config = tiny("resources.roles=true", "resources.decode_on=[decode,gpu]")
    found = {
        "decode": placement.decoding(config.resources),
        "on a GPU": placement.decoding(config.resources, on_gpu=True),
        "encode": placement.encoding(config.resources, "cuda"),
        "cluster": placement.clustering(config.clustering, config.resources),
        "train": placement.training(config.learning, config.resources, "cuda"),
    }
    assert {stage: options["label_selector"]["role"] for stage, options in found.items()} == {
        "decode": "in(decode,gpu)",
        "on a GPU": "in(gpu)",
        "encode": "in(gpu)",
        "cluster": "in(memory)",
        "train": "in(gpu)",
    }


@pytest.mark.parametrize("cpus", [0.25, 0.5, 1.0])
def test_ray_data_cannot_decode_inside_the_encoders(
    cpus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fuses stages that ask for the same; on a cluster both would ask for half a core."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    resources = ResourcesConfig(decode_cpus=cpus)
    assert placement.encoding(resources, "cpu") != placement.decoding(resources)


def test_what_lives_long_lives_with_the_driver() -> None:
    where = ray.remote(lambda: ray.get_runtime_context().get_node_id())
    here = ray.get_runtime_context().get_node_id()
    assert ray.get(where.options(**placement.on_this_node()).remote()) == here
