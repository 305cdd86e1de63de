"""Where an update's training stands, written now and then: what dies goes on from there."""

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

    No generator's state is among it: new heads come before the first step, and what is drawn
    afterwards follows from a clip's place in the schedule.

    Attributes:
        schedule: digest of the schedule that it is a place in.
        slot: batches of the schedule that were used, by all workers.
        epochs: the finished epochs' values.
        sums: of the unfinished epoch, over all workers: name → (sum, number of batches).
        curve: per step, as the first worker saw it.
        tensors: of the model and the optimiser.
    """

    schedule: str = ""
    slot: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    curve: dict[str, list[float]] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, out: Location) -> TrainingState:
        """What an earlier attempt left in the update's folder, or a beginning."""
        place = out / _NAME
        if not place.exists():
            return cls()
        written = io.BytesIO(place.read_bytes())
        return cls(**torch.load(written, map_location="cpu", weights_only=True))


class Checkpoints:
    """Writes states while the training goes on; a file appears whole or not at all.

    A write that fails is raised by the next call.
    """

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
