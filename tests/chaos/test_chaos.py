"""Whole jobs under seeded kills: they end with the undisturbed run's labels and weights.

A failed schedule is tried again by its seed: ``pytest -m chaos tests/chaos -k "[17]"``. What runs
when a kill is due differs from time to time, so others may be killed then. With
``CHAOS_RESULTS=FILE`` every schedule adds a line of JSON there (benchmarks/chaos.py sums them up).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.fs
import pytest

from pipeline import settings
from pipeline.rounds import pretrain
from pipeline.storage import Location
from tests.chaos.schedule import Nodes, Schedule
from tests.conftest import TINY, copy_clips, s3_uri
from tests.whole_runs import results

SETTINGS = [
    *TINY,
    "learning.threads=1",
    "learning.epochs=4",
    "clustering.block_size=16",
]
SETTINGS += ["learning.checkpoint_minutes=0.02", "embedding.max_rows_per_file=16"]

SEEDS = range(*map(int, os.environ.get("CHAOS_SEEDS", "0,50").split(",")))


@pytest.fixture(scope="module")
def undisturbed(indexed: Location, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run on one node gives."""
    place = copy_clips(indexed, Location.of(tmp_path_factory.mktemp("calm")))
    pretrain(settings.load([*SETTINGS, f"run={place}"]))
    return results(place)


@pytest.fixture(scope="module")
def nodes(undisturbed: dict[str, str]) -> Iterator[Nodes]:
    many = Nodes()
    yield many
    many.close()


def check(
    schedule: Schedule, place: Location, nodes: Nodes, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    outcome = "failed"
    try:
        schedule.run(nodes, [*SETTINGS, f"run='{place.full_uri}'"], tmp_path / "log")
        local = Location.of(tmp_path / "found")
        pyarrow.fs.copy_files(place.path, local.path, place.fs, local.fs)
        found = results(local)
        assert [p for p, digest in undisturbed.items() if found.get(p) != digest] == [], schedule
        assert sorted(found) == sorted(undisturbed), schedule
        left = [path.name for path in (tmp_path / "found").rglob("*") if path.suffix == ".tmp"]
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
@pytest.mark.parametrize("seed", SEEDS)
def test_schedules_of_kills(
    seed: int,
    nodes: Nodes,
    indexed: Location,
    undisturbed: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Two of three runs lie on a disk; the third lies in a bucket whose server stops at times."""
    if seed % 3:
        place, schedule = Location.of(tmp_path / "run"), Schedule(seed, kills_of(seed))
    else:
        place = Location.of(s3_uri("media/run", request.getfixturevalue("s3")))
        (server,) = [
            process
            for process in psutil.Process().children()
            if "moto.server" in " ".join(process.cmdline())
        ]
        schedule = Schedule(seed, kills_of(seed), storage=server)
    copy_clips(indexed, place)
    check(schedule, place, nodes, undisturbed, tmp_path)


@pytest.mark.chaos
def test_fifty_kills_of_the_driver_under_load(
    nodes: Nodes, indexed: Location, tmp_path: Path
) -> None:
    """Each soon after the start or later, while other processes take most of the processors.

    They are as nice as Ray's workers: behind others these would get 3% of a core.
    """
    calm = copy_clips(indexed, Location.of(tmp_path / "calm"))
    pretrain(settings.load([*SETTINGS, "rounds=4", f"run={calm}"]))
    place = copy_clips(indexed, Location.of(tmp_path / "run"))
    schedule = Schedule(50, 0, limit_s=3600)
    schedule.due = [("driver", schedule.draw.uniform(1, 25)) for _ in range(50)]
    spin = [sys.executable, "-c", "import os; os.nice(15)\nwhile True: pass"]
    load = [subprocess.Popen(spin) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        schedule.run(nodes, [*SETTINGS, "rounds=4", f"run={place}"], tmp_path / "log")
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert schedule.restarts == 50
    assert results(place) == results(calm)


@pytest.mark.cluster
def test_one_schedule(
    nodes: Nodes, indexed: Location, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    place = copy_clips(indexed, Location.of(tmp_path / "run"))
    check(Schedule(1, 3), place, nodes, undisturbed, tmp_path)
