"""A stage that does not get any further: told, then its stuck part restarted, then stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from pipeline.config import ResourcesConfig
from pipeline.runtime import stalls
from pipeline.telemetry.console import duration, say


class Watchdog:
    """Told of a stage's counts again and again; acts when they stay the same.

    After ``resources.stall_minutes`` without progress it says what every process does. After twice
    that, and each time again, it ends those that are stuck. After ``resources.stall_restarts`` of
    these it calls `stop` with the message that ends the run.

    Args:
        waits: whether the stage waits for resources, which is no stall.
    """

    def __init__(
        self,
        title: str,
        limits: ResourcesConfig,
        waits: Callable[[], bool],
        stop: Callable[[str], None],
    ) -> None:
        self.title = title
        self._after_s, self._most = limits.stall_minutes * 60, limits.stall_restarts
        # Storage that is away is waited for as long, by processes that seem to be stuck.
        self._patience_s = limits.storage_patience_minutes * 60
        self._waits, self._stop = waits, stop
        self._seen: Any = None
        self._since = self._last = time.monotonic()
        self._told, self._restarts = False, 0
        self._at_work: threading.Thread | None = None

    def saw(self, progress: Any) -> None:
        """The counts of now; any value that changes whenever the stage gets further."""
        if not self._after_s:
            return
        now = time.monotonic()
        if progress != self._seen:
            self._seen, self._since, self._last = progress, now, now
            self._told, self._restarts = False, 0
        elif now - self._last >= self._after_s and not self._is_at_work:
            self._last = now
            # Aside, because nodes that hang take a minute to be given up.
            self._at_work = threading.Thread(target=self._act, args=(now,), daemon=True)
            self._at_work.start()

    @property
    def _is_at_work(self) -> bool:
        return self._at_work is not None and self._at_work.is_alive()

    def _act(self, now: float) -> None:
        try:
            if self._waits():
                return
            found = stalls.processes()
        except ray.exceptions.RayError as error:
            say(f"{self.title} · no progress, and Ray does not answer: {error}")
            return
        head = f"{self.title} · no progress for {duration(now - self._since)}"
        if not found:
            say(f"{head}: nothing of this job runs, it waits for resources that others hold")
            return
        stuck = stalls.to_restart(found)
        if not self._told or not stuck or now - self._since < self._patience_s:
            self._told = True
            listing = [line for process in found for line in process.lines()]
            say("\n".join([f"{head}; its processes:", *listing]))
            return
        if self._restarts >= self._most:
            names = ", ".join(f"{each.title} on {each.address}" for each in stuck)
            self._stop(
                f"{head}, and {self._restarts} restarts of what was stuck ({names}) did not help: "
                "see above for what it waits for, then give the same command again"
            )
            return
        self._restarts += 1
        listing = [line for process in stuck for line in process.lines()]
        say("\n".join([f"{head}; restarting ({self._restarts} of {self._most}):", *listing]))
        stalls.restart(stuck)
