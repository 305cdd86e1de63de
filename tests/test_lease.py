"""One writer a place, on disks and in a bucket: taken over when its holder is dead or silent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import lease, manifest
from pipeline.errors import UserError
from pipeline.lease import Holder, LeaseLost, hold
from pipeline.storage import Location
from tests.conftest import s3_uri

ROOT = Path(__file__).resolve().parents[1]
HOLDS = (
    "import sys, time; from pipeline.lease import hold; from pipeline.storage import Location\n"
    "with hold(Location.of(sys.argv[1]), 'it', ttl_s=float(sys.argv[2])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return Location.of(tmp_path / "run" / "LEASE")
    return Location.of(s3_uri("media/run/LEASE", request.getfixturevalue("s3")))


@pytest.fixture
def other(place: Location) -> Callable[[float], subprocess.Popen[str]]:
    def start(ttl_s: float) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", HOLDS, place.full_uri, str(ttl_s)]
        started = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert started.stdout is not None
        assert started.stdout.readline() == "held\n"
        return started

    return start


def test_a_second_writer_gets_one_line(
    place: Location, other: Callable[[float], subprocess.Popen[str]]
) -> None:
    holder = other(0.6)
    try:
        with (
            pytest.raises(UserError, match=rf"process {holder.pid} on .* works on the run; wait"),
            hold(place, "the run", ttl_s=5),
        ):
            pytest.fail("it held the lease twice")
    finally:
        holder.kill()
        holder.wait()
    began = time.monotonic()
    with hold(place, "the run", ttl_s=60):
        assert time.monotonic() - began < 2, "a holder that is known to be dead is not waited for"


def test_a_holder_that_was_suspended_finds_out_before_it_writes(
    place: Location, tmp_path: Path
) -> None:
    lost = threading.Event()
    with hold(place, "the run", on_lost=lost.set, ttl_s=0.9) as ours:
        lease.check_held()
        time.sleep(1.5)
        lease.check_held()
        ours._guard.acquire()  # as if suspended: nothing is renewed
        taker = f"{HOLDS.replace('time.sleep(60)', 'time.sleep(3)')}"
        arguments = [sys.executable, "-c", taker, place.full_uri, "0.9"]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert "held" in other.stdout.read()
            ours._guard.release()
            with pytest.raises(LeaseLost, match="taken over by another process"):
                manifest.seal(Location.of(tmp_path / "stage"), {})
            assert not (tmp_path / "stage" / "_DONE").exists()
        assert lost.wait(2)


def test_an_answer_that_was_lost_loses_no_lease(place: Location) -> None:
    with hold(place, "the run", ttl_s=60) as ours:
        version = ours._version
        ours._renew()
        ours._version = version  # as if nobody had said that it was written
        ours._renew()
        ours.check()
        assert not ours.lost
    with hold(place, "the run"):
        pass


def test_of_many_that_try_one_gets_it(place: Location) -> None:
    def attempt(_: int) -> bool:
        try:
            with hold(place, "the run", ttl_s=1.5):
                time.sleep(1.5)
                return True
        except UserError:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    with hold(place, "the run"):
        pass


@pytest.mark.parametrize("hours", [-24, 24])
def test_no_clock_decides(hours: float, tmp_path: Path) -> None:
    """A holder of another machine that is silent, with another clock, is watched all the same."""
    place = Location.of(tmp_path / "LEASE")
    silent = Holder("t", "elsewhere", "another boot", 1, 1)
    Path(place.uri).write_bytes(lease._text(silent, 7))
    there_s = time.time() + hours * 3600
    os.utime(place.uri, (there_s, there_s))
    began = time.monotonic()
    with hold(place, "the run", ttl_s=1.2):
        assert 1.2 < time.monotonic() - began < 5


def test_what_a_kill_left_of_a_lease_is_free(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "LEASE")
    for left in (b"", b'{"token": "a', b"\0" * 40, b"[]", b"{}", b'{"renewals": 3}'):
        Path(place.uri).write_bytes(left)
        with hold(place, "the run"):
            pass


def test_processes_are_told_apart() -> None:
    alive = Holder.this_process()
    assert not alive.is_dead
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = Holder("t", "h", alive.space, child.pid, lease._started(child.pid) or 0)
    assert not theirs.is_dead
    os.kill(child.pid, signal.SIGKILL)
    assert child.stdin is not None
    while not theirs.is_dead:  # a zombie is dead
        time.sleep(0.01)
    child.communicate()
    assert Holder("t", "h", "another boot", child.pid, 1).is_dead is False
