"""A cluster that grows and shrinks on this machine: Ray's autoscaler, whose nodes are processes.

Everything but the machines is what a cluster in a cloud has: a head that does no work, node types
with labels, idle time-outs, jobs through the job API. A node that is lost is one whose raylet is
killed. Only processes of the cloud's own session are ever ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.autoscaler.v2.sdk import get_cluster_status

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).parent / "ray")
_STORE_BYTES = 150_000_000  # of each node's object store


class OwnFolders(FakeMultiNodeProvider):
    """Nodes that share no folder of unpacked code: a new one unpacks over what is in use there."""

    def _create_node_with_resources_and_labels(self, *described: Any) -> None:
        with self.lock:
            number = self._next_node_id + 1
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"runtime_resources_{number}"
            super()._create_node_with_resources_and_labels(*described)


@dataclass(frozen=True)
class NodeType:
    """A kind of node: what the autoscaler knows of it, as in ``cluster.yaml``."""

    most: int
    resources: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0

    def described(self) -> dict[str, Any]:
        return {
            "min_workers": 0,
            "max_workers": self.most,
            "resources": {**self.resources, "object_store_memory": _STORE_BYTES},
            "labels": dict(self.labels),
            "priority": self.priority,
            "node_config": {},
        }


# As in cluster.yaml, some sizes smaller: spot nodes that decode, and nodes that would have a GPU.
CLOUD = {
    "memory": NodeType(1, {"CPU": 2, "index": 1}, {"role": "memory"}),
    "decode": NodeType(2, {"CPU": 2}, {"role": "decode"}),
    "gpu": NodeType(1, {"CPU": 2, "GPU": 1}, {"role": "gpu"}),
}

# What a run in it should be like: every stage on nodes of its own, and a checkpoint to go on from.
# There is no GPU: encoders compute on the CPUs of the nodes whose role it is.
LESSON = [
    "rounds=2",
    "resources.device=cpu",
    "clustering.block_size=16",
    "clustering.cpus_per_shard=1",
    "embedding.batch_size=4",
    "learning.epochs=5",
    "learning.threads=1",
    "learning.checkpoint_minutes=1e-9",
]
# Each is lost while clips are learned from.
LOSSES = {"gpu": r"round 1/2 .* epoch ", "decode": r"round 2/2 .* epoch "}


@dataclass(frozen=True)
class Sample:
    """Alive worker nodes of each type, and what keeps each of them from being idle."""

    time: float  # seconds since the epoch
    nodes: dict[str, int]
    activity: dict[str, list[str]]


@dataclass(frozen=True)
class Story:
    """A job's life in the cloud; times are seconds since the epoch.

    Attributes:
        lost: the nodes that were killed, each with its type and when.
        alone: when only the head was left; None: it never was.
    """

    began: float
    lost: list[tuple[str, float]]
    ended: float
    alone: float | None
    code: int
    output: str


class FakeCloud:
    """Use as a context manager; inside, `submit` jobs, watch `samples`, `lose` nodes.

    Args:
        types: node types by name.
        idle_s: a node without work is given back after so many seconds.
    """

    def __init__(self, types: Mapping[str, NodeType], idle_s: float = 20.0) -> None:
        self.types = dict(types)
        self.samples: list[Sample] = []
        # Ray's sockets need a short path.
        self.folder = Path(f"/tmp/xdcc-{os.getpid()}")
        self._idle_s = idle_s
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> FakeCloud:
        self.folder.mkdir()
        gcs, dashboard, agent, metrics = (_free_port() for _ in range(4))
        self.gcs, self.address = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        described = self.folder / "cloud.json"
        described.write_text(json.dumps(self._described()))
        environment = {
            **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_METRIC_PORT": str(metrics),
            "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),  # of the autoscaler, for the class above
        }
        with (self.folder / "head.log").open("w") as log:
            self._head = subprocess.Popen(
                [
                    *(RAY, "start", "--head", "--block", f"--port={gcs}", "--num-cpus=0"),
                    *("--node-ip-address=127.0.0.1", "--include-dashboard=true"),
                    *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
                    f"--dashboard-agent-listen-port={agent}",
                    *(f"--temp-dir={self.folder}", f"--autoscaling-config={described}"),
                    *("--labels=role=head", f"--object-store-memory={_STORE_BYTES}"),
                ],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_for(f"{self.address}/api/version")
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._watcher.join(timeout=10)
        for _ in range(2):  # again, for what was being started meanwhile
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.5)
        self._head.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, *entrypoint: str) -> subprocess.Popen[str]:
        """A job of this repository's code by ``ray job submit``; its output is stdout."""
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        runtime = {"working_dir": str(ROOT), "excludes": [".venv", "runs", ".git"]}
        return subprocess.Popen(
            [
                *(RAY, "job", "submit", "--address", self.address),
                *("--runtime-env-json", json.dumps(runtime), "--", sys.executable, *entrypoint),
            ],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def tell(self, entrypoint: list[str], losses: Mapping[str, str]) -> Story:
        """Run a job to its end, and on until the head is alone.

        Args:
            losses: node type → pattern of the lines of output at the first of which one such node
                is lost.
        """
        began, lines = time.time(), []
        lost: dict[str, float] = {}
        job = self.submit(*entrypoint)
        assert job.stdout is not None
        for line in job.stdout:
            lines.append(line)
            for kind, pattern in losses.items():
                if kind not in lost and re.search(pattern, line):
                    when = self.lose(kind)
                    lost |= {kind: when} if when else {}
        code, ended = job.wait(), time.time()
        alone = self.wait_until_alone(90)
        output, last = "".join(lines), time.time() if alone else None
        return Story(began, list(lost.items()), ended, last, code, output)

    def nodes(self) -> dict[str, int]:
        """Alive worker nodes of each type, now."""
        return self._look().nodes

    def lose(self, kind: str) -> float | None:
        """Kill the raylet of one node of this type, as a spot market does.

        Returns:
            When it was done; None: there was no such node.
        """
        raylets = [p for p in self._processes() if p.name() == "raylet"]
        victims = [p for p in raylets if p.environ().get("RAY_NODE_TYPE_NAME") == kind]
        if not victims:
            return None
        victims[0].kill()
        return time.time()

    def wait_until_alone(self, seconds: float) -> bool:
        """Whether only the head is left within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not any(self.nodes().values()):
                return True
            time.sleep(0.5)
        return False

    def _processes(self) -> Iterator[psutil.Process]:
        """Of this cloud alone: their command lines name its folder."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self.folder) in word for word in process.cmdline()):
                    yield process

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            with contextlib.suppress(ray.exceptions.RayError):
                self.samples.append(self._look())

    def _look(self) -> Sample:
        status = get_cluster_status(self.gcs)
        count = Counter(n.ray_node_type_name for n in status.active_nodes + status.idle_nodes)
        activity = {
            f"{node.ray_node_type_name}-{node.instance_id[-2:]}": list(node.node_activity or ())
            for node in status.active_nodes
            if node.ray_node_type_name in self.types
        }
        return Sample(time.time(), {name: count[name] for name in self.types}, activity)

    def _described(self) -> dict[str, Any]:
        head = {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}}
        empty = ("file_mounts", "docker", "auth")
        none = ("cluster_synced_files", "initialization_commands", "setup_commands")
        commands = ("head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        return {
            "cluster_name": "fake",
            "max_workers": sum(kind.most for kind in self.types.values()),
            "idle_timeout_minutes": self._idle_s / 60,
            "upscaling_speed": 1.0,
            "provider": {
                "type": "external",
                "module": f"{OwnFolders.__module__}.{OwnFolders.__name__}",
                "head_node_id": FAKE_HEAD_NODE_ID,
                "gcs_address": self.gcs,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
            },
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "available_node_types": {
                FAKE_HEAD_NODE_TYPE: head,
                **{name: kind.described() for name, kind in self.types.items()},
            },
            **{name: {} for name in empty},
            **{name: [] for name in none},
            **{f"{name}_commands": [] for name in commands},
        }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise TimeoutError(f"{url} does not answer") from None
            time.sleep(0.5)
