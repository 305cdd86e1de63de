"""One try at a run: who drives it, how far it is, which nodes it had: ``run/attempts/0001.json``.

The driver writes it every few seconds, so that `jobs/status.py` can say from the run's directory
alone what the run does, or how each try ended. A try that was killed leaves what it wrote last.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Self

import ray

from pipeline import lease
from pipeline.errors import UserError
from pipeline.storage import Location
from pipeline.telemetry import progress
from pipeline.telemetry.console import last_said

FOLDER = "attempts"
EVERY_S, EVERY_S_REMOTE = 5.0, 30.0  # between two writings: to a disk, to a bucket
_PATIENCE_S = 5.0
_LOSSES = 1000  # the last ones, that the record names
_SILENT = 4  # writings that do not come, after which a driver that cannot be asked counts as dead
DONE, INTERRUPTED = "done", "interrupted"


class AttemptRecord:
    """While the ``with`` block runs, its file says so; then, how it ended."""

    def __init__(self, run: Location) -> None:
        self._folder = run / FOLDER
        self._every_s = EVERY_S if run.is_local else EVERY_S_REMOTE
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="attempt")
        self._nodes: dict[str, str] = {}  # id → role of those that are there
        self._lost: list[tuple[float, str]] = []  # when a node went away, and its role
        self._node_s: dict[str, float] = {}
        self._looked_s = 0.0
        self._ended = ""

    def __enter__(self) -> Self:
        numbers = [number_of(place) for place in self._folder.files(".json")]
        self._place = self._folder / f"{max(numbers, default=0) + 1:04d}.json"
        self._began, self._looked_s = time.time(), time.monotonic()
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ended = _how(error)
        self._stop.set()
        # Writing waits for storage that is away; the job's end does not.
        last = threading.Thread(target=self._write, daemon=True)
        self._thread.join(_PATIENCE_S)
        last.start()
        last.join(_PATIENCE_S)

    def _keep(self) -> None:
        while not self._stop.wait(self._every_s):
            self._write()

    def _write(self) -> None:
        self._count_nodes()
        found: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": round(self._began, 1),
            "written": round(time.time(), 1),
            "every_s": self._every_s,
            "stage": progress.running(),
            "said": last_said(),
            "nodes": dict(Counter(self._nodes.values())),
            "lost": self._lost[-_LOSSES:],
            "node_hours": {role: round(s / 3600, 4) for role, s in self._node_s.items()},
        }
        # What a run does must not end because it cannot be told.
        with suppress(OSError, UserError):
            self._place.write_json(found | ({"ended": self._ended} if self._ended else {}))

    def _count_nodes(self) -> None:
        """Nodes that are there count as if they had been since the last look."""
        now = time.monotonic()
        # No Ray yet or any more, or its head is away.
        with suppress(ray.exceptions.RayError, OSError):
            there = {node["NodeID"]: role_of(node) for node in ray.nodes() if node["Alive"]}
            gone = [role for name, role in self._nodes.items() if name not in there]
            self._lost += [(round(time.time(), 1), role) for role in gone]
            self._nodes = there
        for role, count in Counter(self._nodes.values()).items():
            self._node_s[role] = self._node_s.get(role, 0.0) + count * (now - self._looked_s)
        self._looked_s = now


def attempts_of(run: Location) -> list[dict[str, Any]]:
    """In their order; what cannot be read is left out."""
    found: list[dict[str, Any]] = []
    for file in sorted((run / FOLDER).files(".json"), key=number_of):
        with suppress(ValueError):
            found.append(file.read_json())
    return found


def is_at_work(run: Location, attempt: dict[str, Any]) -> bool:
    """Whether the driver of the last attempt works on the run, as far as can be told."""
    holder = lease.holder_of(run / "_LEASE")
    silent = time.time() - attempt["written"] > _SILENT * attempt["every_s"] + lease.TTL_S
    return holder is not None and not holder.is_dead and not silent


def number_of(place: Location) -> int:
    """Of an attempt's file; 0 where the name has none."""
    name = place.name.removesuffix(".json")
    return int(name) if name.isdecimal() else 0


def role_of(node: dict[str, Any]) -> str:
    """As cluster.yaml labels it; else whether it is the head."""
    is_head = "node:__internal_head__" in node["Resources"]
    return (node["Labels"] or {}).get("role") or ("head" if is_head else "worker")


def _how(error: BaseException | None) -> str:
    if error is None:
        return DONE
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return INTERRUPTED
    said = " ".join(str(error).split())[:300]
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
