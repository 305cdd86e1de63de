"""What jobs/status.py reads from a run's directory: finished, at work, and ended in every way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.status import main as status
from pipeline.errors import UserError
from pipeline.status import as_text, status_of
from pipeline.storage import Location
from pipeline.telemetry.attempts import AttemptRecord
from tests.conftest import ROOT
from tests.whole_runs import Calm

DRIVER = """
import signal, sys, time
from pipeline.lease import hold
from pipeline.storage import Location
from pipeline.telemetry.attempts import AttemptRecord
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background
place = Location.of(sys.argv[1])
with hold(place / "_LEASE", "the run"), AttemptRecord(place):
    print("begun", flush=True)
    time.sleep(600)
"""


def begin(run: Location) -> subprocess.Popen[str]:
    """A driver that holds the run and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, run.uri], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_finished_run(calm: Calm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(str(calm.place), run)
    # It was made in two goes; other tests have taken it up since, with other settings, too.
    for later in sorted((run / "attempts").iterdir())[2:]:
        later.unlink()
    status([str(run), "--json"])
    found = json.loads(capsys.readouterr().out)
    # Two rounds are done; other tests may have asked for more, and it had settled.
    assert (found["state"], found["clips"], found["done"]) == ("finished", 48, 2)
    rounds = {row["round"]: row for row in found["by_round"]}
    assert set(rounds) == {0, 1, 2}
    last = rounds[2]
    assert last["seconds"] > 0
    assert set(last["loss"]) == {"video_audio", "audio_video"}
    assert set(last["clusters"]) == {"video", "audio"}
    assert "nmi_to_last" in last["clusters"]["video"]
    assert [attempt["ended"] for attempt in found["attempts"]] == ["done", "done"]
    assert found["node_hours"]["head"] > 0
    status([str(run)])
    printed = capsys.readouterr().out
    assert f"finished · xdc · 48 clips · round 2 of {found['rounds']}" in printed
    assert "loss" in printed


def test_who_works_on_it_and_that_it_was_killed(new_run: Callable[[], Location]) -> None:
    run = new_run()
    assert status_of(run)["state"] == "begun"
    assert "indexed, 48 clips; jobs/pretrain.py has not begun" in as_text(status_of(run))
    process = begin(run)
    try:
        assert status_of(run)["state"] == "working"
        process.kill()
        process.wait()
        assert status_of(run)["state"] == "killed"
        assert status_of(run)["attempts"][-1]["ended"] == "killed"
        again = begin(run)
        again.send_signal(signal.SIGINT)
        again.wait()
        found = status_of(run)
        assert [each["ended"] for each in found["attempts"]] == ["killed", "interrupted"]
        assert found["state"] == "interrupted"
        assert "pretrain" in as_text(found)
    finally:
        process.kill()


def test_an_error_is_told(new_run: Callable[[], Location]) -> None:
    run = new_run()
    with pytest.raises(UserError), AttemptRecord(run):
        raise UserError("learning.lr is too high\nby far")
    found = status_of(run)
    assert (found["state"], found["attempts"][0]["ended"]) == (
        "failed",
        "learning.lr is too high by far",
    )
    with pytest.raises(ZeroDivisionError), AttemptRecord(run):
        print(1 / 0)
    assert status_of(run)["attempts"][1]["ended"] == "ZeroDivisionError: division by zero"


def test_a_driver_elsewhere_that_is_silent_counts_as_killed(
    new_run: Callable[[], Location],
) -> None:
    run = new_run()
    file = run / "attempts" / "0001.json"
    told = {"host": "far", "pid": 7, "every_s": 30.0, "stage": None, "said": "round 1"}
    told |= {"nodes": {"gpu": 2}, "node_hours": {"gpu": 1.5}}
    lease = {"token": "t", "host": "far", "space": "other", "pid": 7, "started": 1, "renewals": 3}
    (run / "_LEASE").write_json(lease)
    for age, state in ((10.0, "working"), (10_000.0, "killed")):
        file.write_json(told | {"began": 0.0, "written": time.time() - age})
        assert status_of(run)["state"] == state
    assert status_of(run)["node_hours"] == {"gpu": 1.5}


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: jobs/index.py begins one"):
        status([str(tmp_path)])
