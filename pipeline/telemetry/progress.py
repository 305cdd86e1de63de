"""What a person sees while a stage runs: how far, how fast, how long still.

Workers count into one small actor, from any node and without waiting for it; the driver looks at
it and prints a line now and then, or keeps one line up to date on a terminal.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any

import ray
from ray.actor import ActorHandle

from pipeline.runtime.placement import on_driver_node
from pipeline.telemetry import metrics

_LINE_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0


@ray.remote(num_cpus=0)
class _Board:
    """What the workers of each stage report; one for the driver's life: it holds a process."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, float]] = {}
        self.notes: dict[str, dict[str, Any]] = {}

    def add(self, stage: str, counts: dict[str, float], notes: dict[str, Any]) -> None:
        sums = self.counts.setdefault(stage, {})
        for name, value in counts.items():
            sums[name] = sums.get(name, 0) + value
        self.notes.setdefault(stage, {}).update(notes)

    def read(self, stage: str) -> tuple[dict[str, float], dict[str, Any]]:
        return self.counts.get(stage, {}), self.notes.get(stage, {})

    def forget(self, stage: str) -> None:
        self.counts.pop(stage, None)
        self.notes.pop(stage, None)


@lru_cache(maxsize=1)
def _board(job: str) -> ActorHandle:
    """The board of this connection to Ray (`job` is its id)."""
    return _Board.options(**on_driver_node()).remote()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Meter:
    """A stage's counters, for its workers; picklable."""

    board: ActorHandle
    stage: str
    kind: str

    def add(self, notes: dict[str, Any] | None = None, **counts: float) -> None:
        """Sum up `counts`; keep the latest of `notes`."""
        self.board.add.remote(self.stage, counts, notes or {})
        metrics.count("xdc_done", counts.get("done", 0), stage=self.kind)


class Progress:
    """Shows a stage's progress while the ``with`` block runs.

    Args:
        title: for example ``round 2/4 · embed video``; its last part begins with the stage.
        total: how many units there are; workers call ``meter.add(done=n)``.
        unit: for example ``clips``.

    Attributes:
        start_s: seconds until the first unit was done, to within a second; 0 until then.
        seconds: that the whole stage took, once it is over.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        board = _board(ray.get_runtime_context().get_job_id())
        self.meter = Meter(board, uuid.uuid4().hex, title.split(" · ")[-1].split()[0])
        self.done = 0
        self.epoch: int | None = None
        self.start_s = self.seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self.seconds = time.monotonic() - self._start
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr)
        if error is None:
            self._look()
            rate = self.done / max(self.seconds, 1e-9)
            say(
                f"{self.title} · {self.done:,} {self.unit} in {duration(self.seconds)}"
                f" ({rate:,.0f} {self.unit}/s)"
            )
        self.meter.board.forget.remote(self.meter.stage)

    def _watch(self) -> None:
        last_line, last_epoch = time.monotonic(), None
        while not self._stop.wait(_LOOK_EVERY_S):
            line = self._look()
            if line is None:
                continue
            if self._terminal:
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            elif time.monotonic() - last_line >= _LINE_EVERY_S or self.epoch != last_epoch:
                last_line, last_epoch = time.monotonic(), self.epoch
                say(line)

    def _look(self) -> str | None:
        counts: dict[str, float]
        notes: dict[str, Any]
        try:
            counts, notes = ray.get(self.meter.board.read.remote(self.meter.stage), timeout=5)
        except ray.exceptions.RayError:
            return None  # the meter's node is gone or busy; the stage itself goes on
        self.done = int(counts.pop("done", 0))
        self.epoch = notes.get("epoch")
        seconds = time.monotonic() - self._start
        if self.done and not self.start_s:
            self.start_s = seconds
        rate = self.done / seconds
        left = duration((self.total - self.done) / rate) if self.done else "?"
        state = f"{self.done:,}/{self.total:,} {self.unit} · {rate:,.0f}/s · {left} left"
        if not self.done:
            state = f"waiting for the first {self.unit} · {duration(seconds)}"
        extra = [f"{name} {value:,.0f}" for name, value in counts.items() if value]
        extra += [f"{name} {value}" for name, value in notes.items()]
        return " · ".join([self.title, state, *extra])


def say(text: str) -> None:
    """One line for the user, at once, also when standard output is a pipe."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
