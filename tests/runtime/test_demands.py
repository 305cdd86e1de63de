"""What this Ray can never give is refused at once; where nodes may come, it is said what for."""

from __future__ import annotations

import time

import pytest
import ray

from pipeline.errors import UserError
from pipeline.run import check as check_run
from pipeline.runtime import demands, placement
from pipeline.runtime.demands import Need
from pipeline.telemetry.progress import Progress
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("local_ray")  # six CPUs on one node


def test_what_fits_is_not_refused() -> None:
    demands.check(tiny())
    demands.check(tiny("learning.workers=8", "learning.cpus_per_worker=0.5"))  # all six CPUs
    demands.check(tiny("learning.workers=40", "learning.min_workers=2"))
    demands.check(tiny("clustering.shards=100"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learning.workers=4", "learning.cpus_per_worker=4"], "4 × training worker of 4 CPUs"),
        (["learning.workers=6", "learning.cpus_per_worker=1"], "beside 1 × decoding task"),
        (["learning.cpus_per_worker=64"], "learning.workers or learning.cpus_per_worker"),
        (["embedding.min_actors=20", "embedding.max_actors=20"], "20 × encoder actor"),
        (["resources.decode_cpus=64"], "Change resources.decode_cpus"),
        (["clustering.cpus_per_shard=7"], "1 × shard of k-means of 7 CPUs"),
        (["clustering.gpus_per_shard=1"], "1 GPUs"),
        (["resources.device=cuda"], "Change resources.device=cpu"),
        (["resources.roles=true"], "resources.roles=false"),
    ],
)
def test_what_can_never_be_is_refused_in_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        demands.check(tiny(*overrides))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_asks_before_it_begins(indexed: object) -> None:
    from pipeline import methods
    from pipeline.clips.table import ClipTable

    config = tiny("learning.workers=64")
    with pytest.raises(UserError, match="64 × training worker"):
        check_run(config, methods.get(config.method), ClipTable.open(indexed / "clips"))


def test_where_nodes_may_come_it_waits_and_says_for_what(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny("resources.roles=true")
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    demands.check(config)
    asks = demands.embedding(config)
    shown: list[str] = []
    with Progress("round 1/1 · embed video", 10, "clips", asks) as progress:
        end = time.monotonic() + 30
        while not shown and time.monotonic() < end:
            time.sleep(0.5)
            line = progress._look() or ""
            shown += [line] if "waits for" in line else []
    asked = f"{asks[0].options['num_cpus']:g} CPUs on nodes with the role gpu"
    assert f"waits for nodes for 1 × encoder actor of {asked}" in shown[0]
    assert "there are 6 CPUs and 0 GPUs" in shown[0]


def test_equal_bundles_are_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three CPUs fit twice on nodes of five and four, though three times in nine."""
    node = {"Alive": True, "Labels": {}}
    nodes = [node | {"Resources": {"CPU": cpus}} for cpus in (5.0, 4.0)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    options: placement.Options = {"num_cpus": 3, "num_gpus": 0}
    assert demands.how_many_fit(options, 8) == 2
    assert demands.lacking([Need("worker", 3, options, "")])
    assert not demands.lacking([Need("worker", 2, options, "")])


def test_what_the_autoscaler_says() -> None:
    said = """======== Autoscaler status: 2026-11-29 01:00:00 ========
Node status
---------------------------------------------------------------
Active:
 1 head
Pending:
 10.0.0.7: gpu, setting-up
Recent failures:
 decode: InsufficientCapacity (latest_attempt: 01:00:00) - no spot left

Resources
---------------------------------------------------------------
Total Usage:
 0B/1.00GiB memory
"""
    assert list(demands._told(said.splitlines())) == [
        "pending: 10.0.0.7: gpu, setting-up",
        "recent failures: decode: InsufficientCapacity (latest_attempt: 01:00:00) - no spot left",
    ]
