"""The run's diary: one JSON object a line in ``events.jsonl``, and the numbers for TensorBoard."""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pipeline.storage import Location


class EventLog:
    """Appends to ``run/events.jsonl`` and ``run/tensorboard``; also to a run in a bucket.

    An object store cannot append: there the diary is kept here and written anew at every event,
    which is at most a few a minute.
    """

    def __init__(self, run: Location) -> None:
        self.place = run / "events.jsonl"
        self.lines = self.place.read_bytes().decode() if self.place.exists() else ""
        self._local_board: tempfile.TemporaryDirectory[str] | None = None
        if run.is_local:
            board = (run / "tensorboard").uri
            run.make()
        else:
            self._local_board = tempfile.TemporaryDirectory()
            board = self._local_board.name
        self.board = SummaryWriter(board)
        self.remote_board = run / "tensorboard"

    def add(self, event: str, **values: Any) -> None:
        """Write one event; floats and ints with a ``round`` also go to TensorBoard."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        if self.place.is_local:
            with open(self.place.uri, "a") as stream:
                stream.write(line)
        else:
            self.lines += line
            self.place.write_text(self.lines)
        if "round" in values:
            for name, value in values.items():
                if isinstance(value, int | float) and name != "round":
                    self.board.add_scalar(f"{event}/{name}", value, values["round"])
            self.board.flush()

    def close(self) -> None:
        self.board.close()
        if self._local_board is not None:
            for source in Location.of(self._local_board.name).files():
                (self.remote_board / source.name).write_bytes(source.read_bytes())
            self._local_board.cleanup()
