"""The jobs as a user runs them: from a shell and through Ray's job API."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.storage import Location
from tests.conftest import TINY, free_port

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).parent / "ray")


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jobs/pretrain.py", "clustering.kk=3"], "unknown setting 'clustering.kk'"),
        (["jobs/pretrain.py", "nowhere.yaml"], "cannot read the config file"),
        (["jobs/evaluate.py", "runs/none"], "is not a run yet"),
        (["jobs/reproduce.py", "{tmp}", "--trials", "xcd"], "there is no trial 'xcd'"),
        (["jobs/reproduce.py", "{tmp}", "--worlds", "words"], "add --words CSV"),
        (["jobs/export.py", "runs/none", "{tmp}"], "is not a run yet"),
        (["jobs/curate.py", "runs/none", "{tmp}/a.parquet", "--clips", "5"], "is not a run yet"),
        (
            ["jobs/embed.py", "{tmp}", "{tmp}/out", "--encoder", "runs/none"],
            "there is no encoder in",
        ),
        (["jobs/index.py", "s3://nowhere-at-all/x", "{tmp}", "seed=-1"], "setting 'seed'"),
    ],
)
def test_mistakes_end_in_one_clear_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    ended = job(*[a.format(tmp=tmp_path) for a in arguments])
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_ends_in_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    ended = job("jobs/index.py", str(tmp_path / "media"), str(tmp_path / "run"))
    assert ended.returncode == 2
    assert "there are no files in" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_index_fills_the_clip_store(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = job("jobs/index.py", str(world), str(run), *TINY, "--store")
    assert ended.returncode == 0, ended.stderr
    assert f"every clip's window is in {run}/store" in ended.stdout
    assert len(list((run / "store").glob("*.tar"))) == 1
    assert ended.stderr == ""
    assert_ours(ended.stdout)


# How every line begins that a job prints when all is well.
OURS = (
    *(r"round \d+(/\d+)? · ", r"index · ", r"store · ", r"listed \d", r"\d+ clips added"),
    *("every clip's window is in ", r"xdc: \d+ rounds done"),
)


def assert_ours(said: str) -> None:
    """Nothing in it is Ray's, torch's or anybody else's."""
    others = [line for line in said.splitlines() if not re.match("|".join(OURS), line)]
    assert others == []


def test_a_job_that_is_told_to_stop_says_so() -> None:
    """While its driver waits for Ray, where most exceptions of a signal's handler are lost."""
    main = """
import ray
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect, run_job

@ray.remote
def never_ends():
    import time
    time.sleep(3600)

def main(arguments):
    connect(ResourcesConfig())
    print("waits", flush=True)
    ray.get(never_ends.remote())

run_job(main)
"""
    with started("-c", main) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        time.sleep(2)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said == "stopped; the same command goes on from here\n"


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process without the tests' Ray, which outlives neither the block nor five minutes."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = threading.Timer(300, process.kill)
    end.start()
    try:
        yield process
    finally:
        end.cancel()
        process.kill()
        process.wait()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGTERM, "stopped"), (signal.SIGINT, "interrupted")]
)
def test_a_job_stops_while_it_learns(
    number: int, word: str, new_run: Callable[[], Location]
) -> None:
    """While its driver waits for Ray Train, as it does most of the time."""
    run = new_run()
    arguments = ["jobs/pretrain.py", *TINY, f"run={run}", "learning.epochs=1000"]
    with started(*arguments) as process:
        assert process.stdout is not None
        assert any(" · epoch 1 · " in line for line in process.stdout), "it learns"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"{word}; the same command goes on from here\n" in said


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """A Ray head of its own with the job API; yields its address."""
    port, dashboard = free_port(), free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    # Ray's sockets need a short path.
    temp = Path(f"/tmp/xdc-{dashboard}")
    process = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=5"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-port={dashboard}", f"--temp-dir={temp}"),
            f"--dashboard-agent-listen-port={free_port()}",
            "--object-store-memory=300000000",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for(f"{address}/api/version")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temp, ignore_errors=True)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.5)


def submit(
    address: str, *entrypoint: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = ["submit", "--working-dir", str(ROOT), *options]
    deadline = time.monotonic() + 300
    while True:
        ended = ray_job(address, *command, "--", sys.executable, *entrypoint)
        # The head answers a little before it and its agent can take jobs.
        early = ("No available agent", "Connection aborted", "Failed to connect to Ray")
        if not any(words in ended.stderr for words in early) or time.monotonic() > deadline:
            return ended
        time.sleep(2)


def ray_job(address: str, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [RAY, "job", verb, "--address", address, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


def jobs_of(address: str) -> list[dict[str, Any]]:
    """What the job API says of the submitted jobs, the first one first."""
    with urllib.request.urlopen(f"{address}/api/jobs/", timeout=60) as answer:
        jobs = [job for job in json.load(answer) if job["type"] == "SUBMISSION"]
    return sorted(jobs, key=lambda job: job["start_time"])


def test_pretraining_submitted_to_a_cluster(
    head: str, indexed: Location, new_run: Callable[[], Location]
) -> None:
    place = new_run()
    ended = submit(head, "jobs/pretrain.py", *TINY, f"run={place}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "round 1/1 · cluster audio" in ended.stdout
    assert re.search(r"round 1/1 · embed \w+ and \w+ · 48 clips in .* clips/s\)", ended.stdout)
    assert "xdc: 1 rounds done" in ended.stdout
    assert (place / "rounds" / "0001" / "_DONE").exists()
    other = submit(head, "jobs/pretrain.py", *TINY, f"run={place}", "clustering.k=5")
    assert other.returncode != 0
    assert "clustering.k: 4 → 5" in other.stdout + other.stderr
    lost = submit(head, "jobs/pretrain.py", *TINY, "run=runs/a")
    assert "the path 'runs/a' is relative" in lost.stdout + lost.stderr
    first, *others = jobs_of(head)
    assert [job["driver_exit_code"] for job in (first, *others)] == [0, 2, 2]
    assert_ours(log_of(head, first))


def log_of(address: str, job: dict[str, Any]) -> str:
    """Standard output and error of a job's driver, without what the job API adds at the start."""
    url = f"{address}/api/jobs/{job['submission_id']}/logs"
    with urllib.request.urlopen(url, timeout=60) as answer:
        lines = json.load(answer)["logs"].splitlines(keepends=True)
    api = ("job_manager.py", "Running entrypoint for job")
    return "".join(line for line in lines if not any(words in line for words in api))


# A pool of empty processes, and what Ray Data keeps for as long as there is the cluster.
KEPT = ("ray::IDLE", "ray::ActorLocationTracker", "ray::_StatsActor", "ray::_Autoscaling")


@pytest.mark.cluster
def test_a_stopped_job_leaves_nothing_behind_and_goes_on(
    head: str, indexed: Location, new_run: Callable[[], Location]
) -> None:
    place = new_run()
    where = submit(head, "-c", "import pipeline; print(pipeline.__file__)")
    assert "/_ray_pkg_" in where.stdout, "the job's own code is used, not the installed one"
    command = ["jobs/pretrain.py", *TINY, f"run={place}", "rounds=2"]
    before = set(processes_of(head))
    started = submit(head, *command, options=("--no-wait", "--submission-id", "first"))
    assert started.returncode == 0, started.stdout + started.stderr
    deadline = time.monotonic() + 600
    while "round 2/2" not in ray_job(head, "logs", "first").stdout:
        assert time.monotonic() < deadline, "the second round did not begin"
        time.sleep(1)
    its = {process for process in processes_of(head) if process not in before}
    assert any("jobs/pretrain.py" in words(process) for process in its)
    stopped = ray_job(head, "stop", "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert jobs_of(head)[-1]["status"] == "STOPPED"
    assert "the same command goes on from here" in ray_job(head, "logs", "first").stdout
    deadline = time.monotonic() + 60
    while left := [w for process in its if (w := words(process)) and not w.startswith(KEPT)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    ended = submit(head, *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "goes on after round 1" in ended.stdout
    assert "xdc: 2 rounds done" in ended.stdout


def processes_of(address: str) -> list[psutil.Process]:
    """Of this head and its jobs, whoever started them: they know its folder."""
    temp = f"/tmp/xdc-{address.rpartition(':')[2]}/"
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if temp in " ".join([*process.cmdline(), *process.environ().values()]):
                found.append(process)
    return found


def words(process: psutil.Process) -> str:
    """Its command line; empty when it has ended."""
    try:
        ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        return "" if ended else " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
