"""A seeded schedule of kills over one whole job on a Ray of several nodes.

A schedule is what is killed, in which order, and how long after the kill before. Where the kind of
process that is due does not run at the moment, it waits a little for one, and then takes another
kind: every kill of a schedule happens, unless the job is done before.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600  # for a whole schedule
_PATIENCE_S = 6  # for a process of the kind that is due
_STORE = 200 * 2**20
TITLES = {  # how the titles of Ray's processes begin
    "joiner": ("ray::MapBatches(JoinSlots)",),
    "decoder": ("ray::MapBatches(DecodeSlots)",),
    "encoder": ("ray::MapWorker(MapBatches(Encode))", "ray::MapBatches(encode_here)"),
    "shard": ("ray::Shard",),
    "index": ("ray::Index",),
    "trainer": ("ray::RayTrainWorker",),
    "controller": ("ray::TrainController",),
    "coordinator": ("ray::SplitCoordinator",),
    "board": ("ray::_Board",),
}
KINDS = ("driver", "node", "child", *TITLES)
STORAGE = "storage"  # only of a run in a bucket: it does not answer for a few seconds


class Nodes:
    """A head, and nodes that are replaced when they are killed."""

    def __init__(self, count: int = 2) -> None:
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": _STORE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(count):
            self.add()
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        self.cluster.add_node(num_cpus=3, object_store_memory=_STORE)

    def kill_one(self, draw: random.Random) -> str:
        """As a spot node goes, with all that works on it; what was killed, for the record."""
        node = draw.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id))
        raylet = node.all_processes["raylet"][0].process.pid
        gone = psutil.Process(raylet).children(recursive=True)
        working = sum(_title(p).startswith("ray::") and "IDLE" not in _title(p) for p in gone)
        self.cluster.remove_node(node, allow_graceful=False)
        for process in gone:
            with suppress(psutil.Error):
                process.kill()
        self.add()
        return f"node with {working} processes at work"

    def close(self) -> None:
        self.cluster.shutdown()


@dataclass
class Schedule:
    """What is killed after how many seconds, drawn from the seed alone."""

    seed: int
    kills: int
    limit_s: float = LIMIT_S
    killed: list[str] = field(default_factory=list)
    storage: psutil.Process | None = None  # the server of the bucket where the run lies
    restarts: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        kinds = (*KINDS, STORAGE, STORAGE) if self.storage else KINDS
        self.due = [
            (self.draw.choice(kinds), self.draw.uniform(0.2, 3.0)) for _ in range(self.kills)
        ]

    def run(self, nodes: Nodes, arguments: list[str], log: Path) -> None:
        """Run the job to its end, through all kills. Raises AssertionError if it fails or hangs."""
        began = time.monotonic()
        job = _start(nodes, arguments, log)
        waiting = list(self.due)
        try:
            while waiting and job.poll() is None:
                kind, pause_s = waiting.pop(0)
                time.sleep(pause_s)
                what = self._kill(kind, nodes, job)
                if what == "driver":
                    job.wait()
                    self.restarts += 1
                    job = _start(nodes, arguments, log)
                if what:
                    self.killed.append(what)
            code = job.wait(self.limit_s - (time.monotonic() - began))
        finally:
            self.seconds = round(time.monotonic() - began, 1)
            if job.poll() is None:
                job.kill()
                job.wait()
        assert code == 0, f"{self}: exit {code}\n{log.read_text()[-4000:]}"

    def _kill(self, kind: str, nodes: Nodes, job: subprocess.Popen[bytes]) -> str | None:
        kinds = [kind, *self.draw.sample(KINDS, len(KINDS))]
        end = time.monotonic() + _PATIENCE_S
        while job.poll() is None:
            for one in kinds[:1] if time.monotonic() < end else kinds:
                if one == "driver":
                    job.send_signal(signal.SIGKILL)
                    return one
                if one == STORAGE and self.storage:
                    self.storage.suspend()
                    time.sleep(self.draw.uniform(1, 5))
                    self.storage.resume()
                    return one
                if one == "node":
                    return nodes.kill_one(self.draw)
                if victims := _running(one):
                    with suppress(psutil.Error):
                        self.draw.choice(victims).kill()
                        return one
            time.sleep(0.1)
        return None


def _start(nodes: Nodes, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": nodes.address}
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *arguments]
    with log.open("ab") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)


def _running(kind: str) -> list[psutil.Process]:
    """Processes of a kind below this one, in order of their ids."""
    ours = psutil.Process().children(recursive=True)
    if kind == "child":
        decoders = [p for p in ours if _title(p).startswith("ray::MapBatches")]
        ours = [c for p in decoders for c in _children(p) if not _title(c).startswith("ray::")]
        return sorted(ours, key=lambda process: process.pid)
    found = [p for p in ours if _title(p).startswith(TITLES[kind])]
    return sorted(found, key=lambda process: process.pid)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []
