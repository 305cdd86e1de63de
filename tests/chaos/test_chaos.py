"""Whole jobs under seeded kills: they end with the undisturbed run's labels and weights.

A failed schedule is replayed by its seed: ``pytest -m chaos tests/chaos -k "[17]"``. With
``CHAOS_RESULTS=FILE`` every schedule adds a line of JSON there (benchmarks/chaos.py sums them up).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.rounds import pretrain
from pipeline.storage import Location
from tests.chaos.schedule import Nodes, Schedule
from tests.conftest import TINY, copy_clips
from tests.test_rounds import results

SETTINGS = [
    *TINY,
    "learning.threads=1",
    "learning.epochs=4",
    "rounds=2",
    "clustering.block_size=16",
]
SETTINGS += ["learning.checkpoint_minutes=0.02", "embedding.max_rows_per_file=16"]


@pytest.fixture(scope="module")
def calm(indexed: Location, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run on one node gives."""
    from pipeline import settings

    place = copy_clips(indexed, Location.of(tmp_path_factory.mktemp("calm")))
    pretrain(settings.load([*SETTINGS, f"run={place}"]))
    return results(place)


@pytest.fixture(scope="module")
def nodes(calm: dict[str, str]) -> Iterator[Nodes]:
    many = Nodes()
    yield many
    many.close()


def check(
    schedule: Schedule, nodes: Nodes, indexed: Location, calm: dict[str, str], tmp_path: Path
) -> None:
    place = copy_clips(indexed, Location.of(tmp_path / "run"))
    arguments = [*SETTINGS, f"run={place}"]
    outcome = "failed"
    try:
        schedule.run(nodes, arguments, tmp_path / "log")
        found = results(place)
        assert [path for path in calm if found.get(path) != calm[path]] == [], schedule
        assert sorted(found) == sorted(calm), schedule
        left = [path.name for path in (tmp_path / "run").rglob("*") if path.suffix == ".tmp"]
        assert not left, schedule
        outcome = "same bytes"
    finally:
        if out := os.environ.get("CHAOS_RESULTS"):
            line = {"seed": schedule.seed, "outcome": outcome, "killed": schedule.killed}
            line |= {"restarts": schedule.restarts, "seconds": schedule.seconds}
            with open(out, "a") as stream:
                stream.write(json.dumps(line) + "\n")


def kills_of(seed: int) -> int:
    """1 to 8; one schedule in 25 has 24."""
    return 24 if seed % 25 == 24 else random.Random(seed).randint(1, 8)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(int(os.environ.get("CHAOS_SCHEDULES", "50"))))
def test_schedules_of_kills(
    seed: int, nodes: Nodes, indexed: Location, calm: dict[str, str], tmp_path: Path
) -> None:
    check(Schedule(seed, kills_of(seed)), nodes, indexed, calm, tmp_path)


@pytest.mark.cluster
def test_one_schedule(
    nodes: Nodes, indexed: Location, calm: dict[str, str], tmp_path: Path
) -> None:
    check(Schedule(1, 3), nodes, indexed, calm, tmp_path)
