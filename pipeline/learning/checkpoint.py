"""Checkpoints of an update's training: the next attempt goes on from the last one.

Loads torch only where there is a checkpoint: else a worker's decoding would begin seconds later.
"""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.manifest import digest_of
from pipeline.storage import Location

_NAME = "checkpoint.pt"
_DIGEST = 32  # bytes in front of what torch wrote; torch itself would read flipped bits


@dataclass
class TrainingState:
    """All that the rest of the training depends on.

    It holds no generator: new heads come before the first step, and later draws follow from a
    clip's place in the schedule.
    """

    schedule: str = ""  # digest of the schedule that it is a place in (`ScheduleShape`)
    slot: int = 0  # batches of the schedule that were used, by all workers
    epochs: list[dict[str, float]] = field(default_factory=list)  # values of the finished ones
    # Of the unfinished epoch, over all workers: name → (sum, number of batches).
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    curve: dict[str, list[float]] = field(default_factory=dict)  # per step, of the first worker
    tensors: dict[str, Any] = field(default_factory=dict)  # of the model and the optimiser

    @classmethod
    def of(cls, out: Location) -> TrainingState:
        """What an earlier attempt left whole in the update's folder, or a beginning.

        A damaged checkpoint is none: see `Checkpoints.is_damaged`.
        """
        place = out / _NAME
        if not place.exists():
            return cls()
        written = memoryview(place.read_bytes())
        if digest_of(written[_DIGEST:]).encode() != written[:_DIGEST]:
            return cls()
        import torch

        whole = io.BytesIO(written[_DIGEST:])
        state = cls(**torch.load(whole, map_location="cpu", weights_only=True))
        state.curve = {name: values.tolist() for name, values in state.curve.items()}  # type: ignore[attr-defined]
        return state


class Checkpoints:
    """Writes states, whole or not at all, beside the training; the next call raises a failure."""

    def __init__(self, out: Location) -> None:
        self.out, self.place = out, out / _NAME
        self._writer = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def save(self, state: TrainingState) -> None:
        """Take the state as it is now and write it; waits for the write before, if it must."""
        import torch

        sink = io.BytesIO(bytes(_DIGEST))
        sink.seek(_DIGEST)
        # As tensors: a list of floats is read 30 times as slowly, and grows with every step.
        curve = {
            name: torch.tensor(values, dtype=torch.float64) for name, values in state.curve.items()
        }
        torch.save({**vars(state), "curve": curve}, sink)
        written = sink.getbuffer()
        written[:_DIGEST] = digest_of(written[_DIGEST:]).encode()
        self.finish()
        self._last = self._writer.submit(self.place.write_bytes, written)

    def is_damaged(self) -> bool:
        """Whether there is a checkpoint from which nothing can go on."""
        return self.place.exists() and not TrainingState.of(self.out).slot

    def finish(self) -> None:
        if self._last is not None:
            self._last.result()

    def delete(self) -> None:
        self.place.delete()
