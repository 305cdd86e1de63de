"""A Ray that a job starts for itself: what it says is in its logs, its processes stay ready."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SILENT = """
import sys, time
import ray
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect, run_job

class Same:
    def __call__(self, batch):
        return batch

@ray.remote(num_cpus=0)
class Small:
    def ready(self):
        return True

def main(arguments):
    connect(ResourcesConfig(local_cpus=1, object_store_mb=128))
    print(round(ray.cluster_resources()["object_store_memory"] / 2**20), "MiB", flush=True)
    rows = ray.data.from_items([1, 2])
    pool = ray.data.ActorPoolStrategy(size=1)
    print(len(rows.map_batches(Same, compute=pool, num_cpus=0.1).take_all()), flush=True)
    small = [Small.remote() for _ in range(13)]
    ray.get([each.ready.remote() for each in small])
    log = open(arguments[0] + "/ray/session_latest/logs/raylet.out")
    words, deadline = "", time.monotonic() + 60
    while "been started on node" not in words:
        assert time.monotonic() < deadline, "Ray does not count processes any more"
        time.sleep(0.2)
        words += log.read()
    time.sleep(1)
    print("still here", file=sys.stderr)

run_job(main)
"""

READY = """
import os, time
import psutil
import ray
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect, run_job

@ray.remote(num_cpus=0.1)
def process():
    time.sleep(3)  # until the others run too
    return os.getpid()

def main(arguments):
    connect(ResourcesConfig(local_cpus=1, object_store_mb=128))
    found = set(ray.get([process.remote() for _ in range(4)]))
    time.sleep(5)
    print(len(found) > 1, all(psutil.pid_exists(each) for each in found))

run_job(main)
"""


def test_processes_stay_for_the_next_stage() -> None:
    """Ray ends those beyond the number of CPUs a second after their task, if it is left alone."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    place = Path(f"/tmp/xdc-ready-{os.getpid()}")
    place.mkdir()
    try:
        command, given = [sys.executable, "-c", READY], {**environment, "RAY_TMPDIR": str(place)}
        ended = subprocess.run(command, env=given, capture_output=True, text=True, timeout=200)
        assert ended.stdout == "True True\n", ended.stderr
    finally:
        shutil.rmtree(place)


def test_rays_own_words_stay_in_its_logs() -> None:
    """If Ray's logs lack one of them, what hides it in session.py or ray_data.py can go."""
    place = Path(f"/tmp/xdc-{os.getpid()}")  # Ray's sockets need a short path
    # What a `ray start` that was killed leaves behind. It is nothing to a job without RAY_ADDRESS.
    (place / "ray").mkdir(parents=True)
    (place / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", SILENT, str(place)],
            env={**environment, "RAY_TMPDIR": str(place)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == "128 MiB\n2\n"
        assert ended.stderr == "still here\n"
        (driver,) = place.glob("ray/session_latest/logs/python-core-driver-*.log")
        assert "ray/issues/53727" in driver.read_text()
    finally:
        shutil.rmtree(place)
