"""A run's events, as lines of JSON; their numbers also go to TensorBoard and to trackers."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import suppress
from typing import Any

from pipeline.storage import Location
from pipeline.telemetry.trackers import Trackers


def read_events(run: Location) -> list[dict[str, Any]]:
    """What the log holds, in order; a line that a kill cut is left out."""
    log, events = run / "events.jsonl", []
    for line in log.read_bytes().decode(errors="replace").splitlines() if log.exists() else ():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


class EventLog:
    """Appends to ``run/events.jsonl`` and ``run/tensorboard``, also where the run is in a bucket.

    An object store cannot append: there each event, a few a minute at most, rewrites the log.
    """

    def __init__(self, run: Location, trackers: Trackers | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and half a gigabyte

        self.trackers = trackers
        self.location = run / "events.jsonl"
        self.lines = self.location.read_bytes().decode() if self.location.exists() else ""
        if self.lines and not self.lines.endswith("\n"):  # a kill cut the last one
            self._append("\n")
        self._board_place = run / "tensorboard"
        self._scratch = None if run.is_local else tempfile.TemporaryDirectory()
        self._board = SummaryWriter(self._scratch.name if self._scratch else self._board_place.uri)

    def add(self, event: str, **values: Any) -> None:
        """Write one event; numbers with a ``round`` also go to TensorBoard and the trackers."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        self._append(line)
        if "round" in values:
            step = values.pop("round")
            about = f"{event}/{values['clustering']}" if "clustering" in values else event
            numbers = {f"{about}/{n}": v for n, v in values.items() if isinstance(v, int | float)}
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
            if self.trackers is not None:
                self.trackers.log(numbers, step)

    def _append(self, text: str) -> None:
        if self.location.is_local:
            with open(self.location.uri, "a") as stream:
                stream.write(text)
        else:
            self.lines += text
            self.location.write_text(self.lines)

    def close(self) -> None:
        self._board.close()
        if self.trackers is not None:
            self.trackers.close()
        if self._scratch is not None:
            for source in Location.of(self._scratch.name).files():
                (self._board_place / source.name).write_bytes(source.read_bytes())
            self._scratch.cleanup()
