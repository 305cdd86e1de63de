"""A job that is killed with -9 leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

MAIN = """
import os, signal, subprocess, time
import ray
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect

connect(ResourcesConfig(local_cpus=2, object_store_mb=100))

@ray.remote(num_cpus=0)
class Decodes:
    def start(self):
        self.child = subprocess.Popen(["sleep", "600"])
        return os.getpid()

decodes, stuck = Decodes.remote(), Decodes.remote()
ray.get(decodes.start.remote())
os.kill(ray.get(stuck.start.remote()), signal.SIGSTOP)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_killed_job_is_gone_within_five_seconds() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-c", MAIN]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        below = psutil.Process(job.pid).children(recursive=True)
        names = " ".join(word for process in below for word in process.cmdline())
        assert all(part in names for part in ("raylet", "gcs_server", "agent", "sleep"))
        job.kill()
    end = time.monotonic() + 5
    while (alive := [process for process in below if lives(process)]) and time.monotonic() < end:
        time.sleep(0.1)
    names = [" ".join(process.cmdline()) for process in alive]
    for process in alive:
        process.kill()
    assert names == []


def lives(process: psutil.Process) -> bool:
    """Also where nobody takes the exit codes of orphans, as in many containers."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
