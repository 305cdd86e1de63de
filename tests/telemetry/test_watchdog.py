"""Real processes that hang: told with what they do, restarted, and given up in one line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

from pipeline.config import ResourcesConfig
from pipeline.errors import UserError
from pipeline.telemetry.progress import Meter, Progress

pytestmark = pytest.mark.usefixtures("local_ray")
SOON = 2 / 60


def hangs(meter: Meter, flag: Path, hang: Callable[[], None], always: bool) -> Any:
    """A task of Ray Data that hangs at its third row, once or always."""

    def work(row: dict[str, int]) -> dict[str, int]:
        if row["id"] == 2 and (always or not flag.exists()):
            flag.touch()
            hang()
        meter.add(done=1)
        return row

    return work


def run(progress: Progress, flag: Path, hang: Callable[[], None], always: bool) -> list[int]:
    with progress:
        rows = ray.data.range(4, override_num_blocks=4)
        work = hangs(progress.meter, flag, hang, always)
        return sorted(row["id"] for row in rows.map(work, num_cpus=0.5).take_all())


def test_a_stopped_process_is_told_and_its_work_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ResourcesConfig(stall_minutes=SOON, storage_patience_minutes=0, stall_restarts=2)
    progress = Progress("round 1/1 · embed video", 4, "clips", limits=limits)
    stop = lambda: os.kill(os.getpid(), signal.SIGSTOP)  # noqa: E731
    assert run(progress, tmp_path / "flag", stop, always=False) == [0, 1, 2, 3]
    said = capsys.readouterr().out
    assert "round 1/1 · embed video · no progress for" in said
    assert "Map(work)" in said
    assert "· stopped" in said
    assert "restarting (1 of 2)" in said


def test_what_is_always_stuck_ends_the_run_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ResourcesConfig(stall_minutes=SOON, storage_patience_minutes=0, stall_restarts=0)
    progress = Progress("round 1/1 · embed video", 4, "clips", limits=limits)
    with pytest.raises(UserError) as caught:
        run(progress, tmp_path / "flag", lambda: time.sleep(600), always=True)
    assert "\n" not in str(caught.value)
    assert "restarts of what was stuck (Map(work)" in str(caught.value)
    said = capsys.readouterr().out
    assert "· waits" in said
    assert "work (test_watchdog.py" in said, "the stack of the process"


def test_a_stage_that_waits_for_nodes_is_not_stuck(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.runtime.demands import Need

    never = Need("encoder actor", 1, {"num_cpus": 1000.0}, "embedding.min_actors")
    limits = ResourcesConfig(stall_minutes=1 / 60, storage_patience_minutes=0, stall_restarts=0)
    with Progress("round 1/1 · embed video", 4, "clips", [never], limits) as progress:
        end = time.monotonic() + 60
        while "waits for nodes for 1 × encoder actor" not in (progress._look() or ""):
            assert time.monotonic() < end
            time.sleep(0.2)
        time.sleep(2)
    assert "no progress" not in capsys.readouterr().out


def test_a_board_that_dies_takes_nothing_along(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("round 1/1 · embed video", 10, "clips") as progress:
        progress.meter.add(done=3)
        progress._look()
        first = progress._board_id
        ray.kill(progress.meter.board, no_restart=False)
        end = time.monotonic() + 60
        while progress._board_id == first and time.monotonic() < end:
            progress._look()
            time.sleep(0.1)
        progress.meter.add(done=4)
        while progress.done < 7 and time.monotonic() < end:
            progress._look()
            time.sleep(0.1)
        assert progress.done == 7
    assert "raylet" not in capfd.readouterr().out
