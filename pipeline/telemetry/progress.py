"""What a person sees while a stage runs: how far it is, how fast, and how long it will take.

Workers on any node add to counters in one small actor and do not wait for it. The driver reads
them once a second. On a terminal it keeps one line up to date, in a pipe it prints a line every
ten seconds.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray
from ray.actor import ActorHandle

from pipeline.config import ResourcesConfig
from pipeline.errors import UserError
from pipeline.patience import BOARD, announce
from pipeline.runtime.demands import Stage, awaited, lacking
from pipeline.runtime.placement import on_this_node
from pipeline.runtime.signals import interrupt
from pipeline.telemetry import metrics
from pipeline.telemetry.console import LiveLine, duration, say
from pipeline.telemetry.watchdog import Watchdog

_ASK_EVERY_S = 30.0
_running: list[Progress] = []  # of this process


def running() -> dict[str, Any] | None:
    """How far the stage is that runs in this process; None between stages."""
    return _running[-1].position() if _running else None


# It may die: `Progress` keeps what it had read, and at most a second's counts are lost.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Board:
    """What the workers of each stage report. One serves the whole job: an actor is a process."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex  # another one after a restart
        self.stages: dict[str, tuple[Counter[str], dict[str, Any]]] = {}
        self.lines: list[str] = []  # announced and not read yet

    def add(self, stage: str, counts: dict[str, float], notes: dict[str, Any]) -> None:
        sums, latest = self.stages.setdefault(stage, (Counter(), {}))
        sums.update(counts)
        latest.update(notes)

    def announce(self, line: str) -> None:
        """A line of a worker's for the user."""
        self.lines.append(line)

    @ray.method(max_task_retries=0)  # Ray prints each retry, and the next look comes soon
    def read(self, stage: str) -> tuple[str, Counter[str], dict[str, Any], list[str]]:
        """The board's id, a stage's counts and notes, and the lines announced since last time."""
        lines, self.lines = self.lines, []
        return self.id, *self.stages.get(stage, (Counter(), {})), lines

    def forget(self, stage: str) -> None:
        self.stages.pop(stage, None)


@lru_cache(maxsize=1)
def _board(job: str) -> ActorHandle:
    """The board of this connection to Ray (`job` is its id)."""
    return _Board.options(name=BOARD, get_if_exists=True, **on_this_node()).remote()  # type: ignore[attr-defined]


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


class Rate:
    """Units per second over the last `window_s` seconds, from (time, count) pairs.

    The rate starts at the first unit, so start-up does not count. Units often arrive in batches:
    the window always reaches back to the second-to-last change, however long ago that was.
    """

    def __init__(self, window_s: float = 60.0) -> None:
        self.window_s = window_s
        self._changes: deque[tuple[float, float]] = deque()
        self._now = 0.0

    def add(self, at_s: float, done: float) -> None:
        """Note that `done` units were done at the time `at_s`; neither may fall."""
        self._now = at_s
        if done > (self._changes[-1][1] if self._changes else 0):
            self._changes.append((at_s, done))
        while len(self._changes) > 2 and self._changes[1][0] <= at_s - self.window_s:
            self._changes.popleft()

    @property
    def per_second(self) -> float | None:
        """None until the count has risen twice."""
        if len(self._changes) < 2:
            return None
        (start, before), (_, done) = self._changes[0], self._changes[-1]
        return (done - before) / (self._now - start)

    def left_s(self, total: float) -> float | None:
        """Seconds until `total` units are done, at least 0; None while the rate is unknown."""
        if self._changes and self._changes[-1][1] >= total:
            return 0.0
        rate = self.per_second
        return None if rate is None else (total - self._changes[-1][1]) / rate


class Progress:
    """Shows a stage's progress while the ``with`` block runs.

    Args:
        title: for example ``round 2/4 · embed video``; its last part begins with the stage.
        total, unit: how many there are of ``clips``, say; workers call ``meter.add(done=n)``.
        asks: what the stage must have; until it begins, the line says what of it is lacking.
        limits: how long it may stay without progress.

    Attributes:
        done: units so far; more than `total` where the work of a lost worker is repeated.
        start_s: seconds until the first unit was done, to within a second; 0 until then.
        seconds: duration of the whole stage, once it is over.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        asks: Stage = (),
        limits: ResourcesConfig | None = None,
    ) -> None:
        self.title, self.total, self.unit, self.asks = title, total, unit, asks
        self._awaited, self._asked_s = "", -math.inf
        board = _board(ray.get_runtime_context().get_job_id())
        self.meter = Meter(board, uuid.uuid4().hex, title.split(" · ")[-1].split()[0])
        self.done = 0
        self.epoch: int | None = None
        self.start_s = self.seconds = 0.0
        self._rate = Rate()
        self._stop = threading.Event()
        limits = limits or ResourcesConfig()
        self._watchdog = Watchdog(title, limits, lambda: bool(lacking(asks)), self._end)
        self._verdict = ""
        self._base: Counter[str] = Counter()  # of boards that died
        self._board_id, self._last_counts = "", Counter[str]()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        _running.append(self)
        self._live = LiveLine() if LiveLine.is_possible() else None
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        _running.remove(self)
        self._stop.set()
        self._thread.join(timeout=5)
        if self._verdict:
            self._close()
            raise UserError(self._verdict) from None
        self._close()
        if error is None:
            self._look()
            done = min(self.done, self.total)
            rate = _per_second(done / max(self.seconds, 1e-9))
            took = f"{done:,} {self.unit} in {duration(self.seconds)} ({rate} {self.unit}/s)"
            say(" · ".join([self.title, took, *self._repeated()]))
        self.meter.board.forget.remote(self.meter.stage)

    def _close(self) -> None:
        self.seconds = time.monotonic() - self._start
        if self._live is not None:
            self._live.close()

    def _end(self, verdict: str) -> None:
        """Have the main thread leave the stage with a message, wherever it waits."""
        self._verdict = verdict
        if not interrupt():
            say(verdict)

    def left_s(self) -> float | None:
        """Seconds until all units are done; None while the rate is unknown."""
        return self._rate.left_s(self.total)

    def position(self) -> dict[str, Any]:
        """For others to show; numbers that are not known yet are None."""
        return {
            "title": self.title,
            "unit": self.unit,
            "done": min(self.done, self.total),
            "total": self.total,
            "per_second": self._rate.per_second,
            "left_s": self.left_s(),
            "waits_for": "" if self.done else self._awaited,
        }

    def _watch(self) -> None:
        last_line, last_epoch = time.monotonic(), None
        while not self._stop.wait(1.0):
            line = self._look()
            self._watchdog.saw((self.done, self.epoch))
            if line is None:
                continue
            if self._live is not None:
                self._live.show(line, self.done, self.total)
            elif time.monotonic() - last_line >= 10 or self.epoch != last_epoch:
                last_line, last_epoch = time.monotonic(), self.epoch
                say(line)

    def _look(self) -> str | None:
        counts: Counter[str]
        notes: dict[str, Any]
        lines: list[str]
        try:
            reading: Any = self.meter.board.read.remote(self.meter.stage)
            board, counts, notes, lines = ray.get(reading, timeout=5)
        except ray.exceptions.RayError:
            return None  # the board's node is gone or busy; the stage itself goes on
        for line in lines:
            announce(line)
        if board != self._board_id:  # another one took its place, and begins at nothing
            self._board_id, self._base = board, self._base + self._last_counts
        self._last_counts = Counter(counts)
        counts += self._base
        self.done = int(counts.pop("done", 0))
        self.epoch = notes.get("epoch")
        seconds = time.monotonic() - self._start
        if self.done and not self.start_s:
            self.start_s = seconds
        self._rate.add(seconds, self.done)
        extra = [f"{name} {value:,.0f}" for name, value in counts.items() if value]
        extra += [f"{name} {value}" for name, value in notes.items()]
        return " · ".join([self.title, *self._state(seconds), *self._repeated(), *extra])

    def _state(self, seconds: float) -> list[str]:
        if not self.done:
            awaited = self._waits_for(seconds)
            return [f"waiting for the first {self.unit}", duration(seconds), *awaited]
        state = [f"{min(self.done, self.total):,}/{self.total:,} {self.unit}"]
        rate, left_s = self._rate.per_second, self.left_s()
        if rate is not None:
            state.append(f"{_per_second(rate)}/s")
        if left_s is not None:
            state.append(f"{duration(left_s)} left" if left_s else "finishing")
        return state

    def _waits_for(self, seconds: float) -> list[str]:
        """What is lacking; asked now and then, because the autoscaler's answer takes a second."""
        if seconds - self._asked_s >= _ASK_EVERY_S:
            self._asked_s = seconds
            try:
                self._awaited = awaited(self.asks)
            except ray.exceptions.RayError:
                self._awaited = ""
        return [self._awaited] if self._awaited else []

    def _repeated(self) -> list[str]:
        return [f"{self.done - self.total:,} repeated"] if self.done > self.total else []


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
