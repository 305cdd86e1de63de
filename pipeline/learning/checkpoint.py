"""Checkpoints of an update's training: the next attempt goes on from the last one."""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.storage import Location

_NAME = "checkpoint.pt"


@dataclass
class TrainingState:
    """All that the rest of the training depends on.

    It holds no generator: new heads come before the first step, and later draws follow from a
    clip's place in the schedule.
    """

    schedule: str = ""  # digest of the schedule that it is a place in
    slot: int = 0  # batches of the schedule that were used, by all workers
    epochs: list[dict[str, float]] = field(default_factory=list)  # values of the finished ones
    # Of the unfinished epoch, over all workers: name → (sum, number of batches).
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    curve: dict[str, list[float]] = field(default_factory=dict)  # per step, of the first worker
    tensors: dict[str, Any] = field(default_factory=dict)  # of the model and the optimiser

    @classmethod
    def of(cls, out: Location) -> TrainingState:
        """What an earlier attempt left in the update's folder, or a beginning."""
        place = out / _NAME
        if not place.exists():
            return cls()
        written = io.BytesIO(place.read_bytes())
        return cls(**torch.load(written, map_location="cpu", weights_only=True))


class Checkpoints:
    """Writes states, whole or not at all, beside the training; the next call raises a failure."""

    def __init__(self, out: Location) -> None:
        self.place = out / _NAME
        self._writer = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def save(self, state: TrainingState) -> None:
        """Take the state as it is now and write it; waits for the write before, if it must."""
        sink = io.BytesIO()
        torch.save(vars(state), sink)
        self.finish()
        self._last = self._writer.submit(self.place.write_bytes, sink.getbuffer())

    def finish(self) -> None:
        if self._last is not None:
            self._last.result()

    def delete(self) -> None:
        self.place.delete()
