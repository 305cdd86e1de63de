"""What the processes of this job do while nothing moves, on every node, and an end to the stuck.

Ray's own state API needs a dashboard, which a Ray of the job's own does not start. So a task on
each node reads /proc: Ray's processes carry the name of their task as their title.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

# Still is a process that takes almost no processor time for so long, and does not wait for a
# processor either, as on a machine that is overloaded. A little always goes to Ray's own threads.
_SAMPLE_S = 2.0
_STILL_TICKS = round(0.05 * _SAMPLE_S * os.sysconf("SC_CLK_TCK"))
_PATIENCE_S = 60.0
_STACK_LINES = 12
# Ray's and ours, which only wait for others. They are ended only if somebody stopped them.
_HELPERS = {
    *("IDLE", "_Board", "_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker"),
    *("TrainController", "PlacementGroupCleaner", "SynchronizationActor", "DatasetManager"),
    *("SplitCoordinator", "PreemptionWatcher", "Index", "Desk"),
    *("embed_part", "processes_here", "end_here"),
}
_WAITING = ("RayTrainWorker", "MapWorker")  # also idle: they may be waiting for a task's output


@dataclass(frozen=True)
class RayProcess:
    """One process of this job."""

    node: str  # id
    address: str
    pid: int
    title: str  # of the task, or of the actor and its method
    state: str  # of ps: T is stopped, D waits for a device
    is_still: bool
    files: tuple[str, ...]  # that it has open, without logs and libraries
    stack: tuple[str, ...]  # of its threads, innermost call first, where py-spy is installed

    @property
    def name(self) -> str:
        return self.title.partition(".")[0] if "(" not in self.title else self.title

    @property
    def is_stopped(self) -> bool:
        return self.state in "Tt"

    @property
    def is_helper(self) -> bool:
        return self.name in _HELPERS

    def lines(self) -> Iterator[str]:
        doing = "stopped" if self.is_stopped else "waits" if self.is_still else "works"
        files = f" · has open {', '.join(self.files)}" if self.files else ""
        yield f"  node {self.address} · process {self.pid} · {self.title} · {doing}{files}"
        yield from (f"      {line}" for line in self.stack)


def processes() -> list[RayProcess]:
    """This job's processes on all nodes that answer within a minute; helpers only if stopped."""
    job = ray.get_runtime_context().get_job_id()
    found = [each for answer in _everywhere(processes_here, job) for each in answer]
    return [each for each in found if each.is_stopped or not each.is_helper]


def to_restart(all_of_them: Sequence[RayProcess]) -> list[RayProcess]:
    """Which of them hold up the others: stopped ones, else still tasks, else still workers."""
    still = [each for each in all_of_them if each.is_still]
    stopped = [each for each in still if each.is_stopped]
    tasks = [each for each in still if not each.name.startswith(_WAITING)]
    busy = [each for each in still if each.title.endswith((".submit", ".__init__"))]
    return stopped or tasks or busy or still


def restart(stuck: Sequence[RayProcess]) -> None:
    """End them with -9: Ray, Ray Data and Ray Train do their work again elsewhere."""
    for node in {each.node for each in stuck}:
        _everywhere(end_here, [each.pid for each in stuck if each.node == node], nodes=[node])


def processes_here(job: str) -> list[RayProcess]:
    """On this node: of the same job of the same Ray."""
    logs = os.path.dirname(os.readlink("/proc/self/fd/1"))
    context = ray.get_runtime_context()
    node, address = context.get_node_id(), ray.util.get_node_ip_address()
    before = {pid: _cpu_ticks(pid) for pid in _pids(logs, job)}
    time.sleep(_SAMPLE_S)
    found = []
    for pid, ticks in before.items():
        if pid == os.getpid():
            continue
        with suppress(OSError, ValueError, IndexError):
            title = _title(pid)
            state, now = _stat(pid)[0], _cpu_ticks(pid)
            stack = () if title in _HELPERS else _stack(pid)
            is_still = now - ticks <= _STILL_TICKS and not _is_runnable(pid)
            found.append(RayProcess(node, address, pid, title, state, is_still, _files(pid), stack))
    return found


def end_here(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _everywhere(function: Any, argument: Any, nodes: Sequence[str] = ()) -> list[Any]:
    task: Any = ray.remote(num_cpus=0, max_retries=0)(function)
    nodes = nodes or [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    asked = [
        task.options(label_selector={"ray.io/node-id": node}).remote(argument) for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE_S)
    answers = []
    for reference in answered:
        with suppress(ray.exceptions.RayError):  # its node went
            answers.append(ray.get(reference))
    return answers


def _pids(logs: str, job: str) -> list[int]:
    """Workers whose output goes to ``worker-<id>-<job>-<pid>.out`` of the same session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            output = os.readlink(f"/proc/{name}/fd/1")
            if output.startswith(f"{logs}/") and output.endswith(f"-{job}-{name}.out"):
                found.append(int(name))
    return found


def _title(pid: int) -> str:
    title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
    return title.removeprefix("ray::")


def _stat(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_ticks(pid: int) -> int:
    with suppress(OSError):
        return sum(map(int, _stat(pid)[11:13]))
    return 0


def _is_runnable(pid: int) -> bool:
    return any(
        _stat(f"{pid}/task/{thread}")[0] == "R" for thread in os.listdir(f"/proc/{pid}/task")
    )


def _files(pid: int) -> tuple[str, ...]:
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            place = os.readlink(f"/proc/{pid}/fd/{number}")
            if os.path.isfile(place) and not place.startswith(("/dev/", "/proc/", sys.prefix)):
                found.append(place)
    return tuple(sorted({place for place in found if "/logs/" not in place}))[:5]


def _stack(pid: int) -> tuple[str, ...]:
    beside = Path(sys.executable).parent / "py-spy"  # Ray brings it along
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if not spy:
        return ("no py-spy here, so no stack: pip install py-spy",)
    command = [spy, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return (str(error),)
    said = ended.stdout if ended.returncode == 0 else ended.stderr
    inner = [line.strip() for line in said.splitlines() if line.strip()]
    ours = [line for line in inner if not line.startswith(("Process", "Python"))]
    return tuple(ours[:_STACK_LINES])
