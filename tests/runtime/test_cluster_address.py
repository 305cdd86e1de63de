"""RAY_ADDRESS and what lies around on a machine: joined, ignored, or one line within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from pipeline.errors import UserError
from pipeline.runtime.cluster_address import check_reachable, given_address
from tests.conftest import free_port
from tests.tmpfs import mounted

MAIN = """
import ray
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect, run_job

def main(arguments):
    connect(ResourcesConfig(local_cpus=3, object_store_mb=100))
    print(int(ray.cluster_resources()["CPU"]), flush=True)

run_job(main)
"""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing, as a firewall or a hung head."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refused(address: str) -> tuple[str, float]:
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        check_reachable(address)
    assert "\n" not in str(caught.value)
    return str(caught.value), time.monotonic() - started


def test_a_head_is_recognised(local_ray: None) -> None:
    """If this fails, Ray has another way to ask a head whether it is alive."""
    check_reachable(ray.get_runtime_context().gcs_address)


def test_another_port_of_ray_is_not_its_head(local_ray: None) -> None:
    node = ray.nodes()[0]
    said, _ = refused(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
    assert "is not the head of a Ray cluster" in said


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (lambda: f"127.0.0.1:{free_port()}", "no Ray cluster answers at 127.0.0.1:"),
        (lambda: "no-such-host.invalid:6379", "no Ray cluster answers at no-such-host.invalid"),
        (lambda: "http://127.0.0.1:8265", "ray job submit --address http://127.0.0.1:8265"),
        (lambda: "ray://127.0.0.1:10001", "is not what a job inside a cluster needs"),
        (lambda: "head", "RAY_ADDRESS=head is not HOST:PORT"),
    ],
)
def test_a_wrong_address_is_one_line(address: Callable[[], str], words: str) -> None:
    said, took_s = refused(address())
    assert words in said
    assert took_s < 15


def test_what_never_answers_is_given_up(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.cluster_address._PATIENCE_S", 1.0)
    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    said, took_s = refused(f"127.0.0.1:{silent_port}")
    assert "no Ray cluster answers" in said
    assert took_s < 5


def test_local_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert given_address() == ""


def run_beside(address_file: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A job on a machine where an earlier ``ray start`` left its address."""
    place = Path(f"/tmp/xdc-{os.getpid()}")  # Ray's sockets need a short path
    (place / "ray").mkdir(parents=True, exist_ok=True)
    (place / "ray" / "ray_current_cluster").write_text(address_file)
    own = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    try:
        return subprocess.run(
            [sys.executable, "-c", MAIN],
            env={**own, "RAY_TMPDIR": str(place), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)


def test_a_ray_start_of_this_machine_is_not_joined_unasked() -> None:
    """Its address file outlives it; `ray.init` reads it and refuses `num_cpus`, dead or alive."""
    ended = run_beside(f"127.0.0.1:{free_port()}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3\n", "")


def test_a_cluster_that_is_gone_ends_the_job_in_one_line() -> None:
    ended = run_beside("", RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: no Ray cluster answers at 127.0.0.1:")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.chaos
def test_a_ray_that_finds_no_room_to_start_says_so(tmp_path: Path) -> None:
    with mounted(Path(f"/tmp/xdc-full-{os.getpid()}"), "2m") as disk:  # Ray needs a short path
        disk.fill()
        own = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        ended = subprocess.run(
            [sys.executable, "-c", MAIN],
            env={**own, "RAY_TMPDIR": str(disk.place)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 2
        assert "error: Ray does not start here" in ended.stderr.splitlines()[-1]
        assert f"{disk.place}/ray has 0 MiB of room" in ended.stderr
    disk.place.rmdir()
