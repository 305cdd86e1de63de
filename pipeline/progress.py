"""What a person sees while a stage runs: how far, how fast, how long still.

Workers count into one small actor (`Meter`), from any node and without waiting for it; the driver
looks at it and prints a line now and then, or keeps one line up to date on a terminal.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

import ray

_LINE_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0


@ray.remote(num_cpus=0)
class Meter:
    """Counts what workers report: ``add`` sums, ``note`` keeps the latest value."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.notes: dict[str, Any] = {}

    def add(self, **counts: float) -> None:
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0) + value

    def note(self, **notes: Any) -> None:
        self.notes.update(notes)

    def read(self) -> tuple[dict[str, float], dict[str, Any]]:
        return dict(self.counts), dict(self.notes)


class Progress:
    """Shows a stage's progress while the ``with`` block runs.

    Args:
        title: for example ``round 2/4 · embed``.
        total: how many units there are; workers call ``meter.add.remote(done=n)``.
        unit: for example ``clips``.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.meter: Any = Meter.remote()  # type: ignore[attr-defined]
        self.done = 0
        self.seconds = 0.0
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
        ray.kill(self.meter)

    def _watch(self) -> None:
        last_line = time.monotonic()
        while not self._stop.wait(_LOOK_EVERY_S):
            line = self._look()
            if line is None:
                continue
            if self._terminal:
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            elif time.monotonic() - last_line >= _LINE_EVERY_S:
                last_line = time.monotonic()
                say(line)

    def _look(self) -> str | None:
        try:
            counts, notes = ray.get(self.meter.read.remote(), timeout=5)
        except ray.exceptions.RayError:
            return None  # the meter's node is gone or busy; the stage itself goes on
        self.done = int(counts.pop("done", 0))
        seconds = time.monotonic() - self._start
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
