"""Training workers that stay for the next update, and what ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.learning.group import TrainingGroup, may_stay
from pipeline.storage import Location
from tests.conftest import tiny
from tests.learning.test_learn import trained

pytestmark = pytest.mark.usefixtures("local_ray")  # six CPUs on one node
WORKER, DESK = "ray::RayTrainWorker", "ray::Desk"


def of_title(title: str) -> list[psutil.Process]:
    """Processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def wait_until_none(title: str) -> None:
    end = time.monotonic() + 60
    while of_title(title):
        assert time.monotonic() < end, f"{title} stays"
        time.sleep(0.2)


def same(ours: Location, theirs: Location) -> bool:
    names = ("encoders.safetensors", "heads.safetensors", "curve.parquet")
    return all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)


def test_workers_stay_and_what_they_learn_is_the_same(new_run: Callable[[], Location]) -> None:
    """As that of workers of its own; also after one of them, with nothing to do, has died."""
    run, several = new_run(), ["learning.workers=2", "learning.epoch_clips=48"]
    alone, _ = trained(run, "alone", *several)
    wait_until_none(WORKER)
    with TrainingGroup() as group:
        first, _ = trained(run, "first", *several, group=group)
        workers = set(of_title(WORKER))
        second, _ = trained(run, "second", *several, group=group)
        assert len(workers) == 2
        assert set(of_title(WORKER)) == workers, "the same processes"
        workers.pop().kill()
        third, _ = trained(run, "third", *several, group=group)
    wait_until_none(WORKER)
    wait_until_none(DESK)
    assert all(same(out, alone) for out in (first, second, third))
    assert not (first / "train").exists()


@pytest.mark.chaos
def test_after_a_failed_update_and_for_other_workers_there_is_a_new_group(
    new_run: Callable[[], Location],
) -> None:
    run = new_run()
    alone, _ = trained(run, "alone")
    with TrainingGroup() as group:
        with pytest.raises(UserError, match="diverged"):
            trained(run, "diverges", "learning.lr=1e30", "learning.warmup=0", group=group)
        wait_until_none(WORKER)
        again, _ = trained(run, "again", group=group)
        (worker,) = of_title(WORKER)
        trained(run, "two", "learning.workers=2", group=group)
        assert len(of_title(WORKER)) == 2
        assert not worker.is_running()
    assert same(again, alone)


@pytest.mark.chaos
def test_without_its_desk_a_group_ends_and_another_goes_on(
    new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run()
    alone, _ = trained(run, "alone")
    out = run / "killed"

    def kill() -> None:
        end = time.monotonic() + 120
        while not (out / "checkpoint.pt").exists() and time.monotonic() < end:
            time.sleep(0.02)
        for process in of_title(DESK):
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    _, found = trained(run, "killed", "learning.checkpoint_minutes=1e-9")
    killer.join()
    assert found["resumed_at"] >= 20
    assert "lost (the process that hands out updates died)" in capsys.readouterr().out
    assert same(out, alone)


@pytest.mark.parametrize(
    ("overrides", "device", "stays"),
    [
        ([], "cpu", True),
        (["learning.workers=3", "learning.cpus_per_worker=1"], "cpu", True),
        (["learning.workers=6", "learning.cpus_per_worker=1"], "cpu", False),  # no room to embed
        (
            ["clustering.shards=6", "clustering.cpus_per_shard=1", "clustering.block_size=4"],
            "cpu",
            False,
        ),
        ([], "cuda", False),
    ],
)
def test_they_stay_where_nothing_else_needs_what_they_hold(
    overrides: list[str], device: str, stays: bool
) -> None:
    assert may_stay(tiny(*overrides), 48, device) is stays


def test_on_a_cluster_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not may_stay(tiny(), 48, "cpu")
