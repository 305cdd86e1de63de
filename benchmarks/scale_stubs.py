"""What stands for decoding and encoding in scale_feed.py.

Apart, since a process imports the module of what it runs: decoding tasks never import torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.slots import LABEL
from pipeline.clips.stream import Slots, row_of

BATCH = 32  # clips of a slot


@dataclass(frozen=True)
class Stub:
    """Stands where decoding would: a row of joined slots in, zeros out, after a while."""

    batch_size: int
    clip_bytes: int
    seconds: float  # of a slot

    def __call__(self, joined: pa.Table) -> dict[str, np.ndarray]:
        slots = joined["slots"][0].as_py()
        time.sleep(self.seconds * len(slots))
        return row_of((self._batch(**slot) for slot in slots), len(slots))

    def _batch(self, slot: int, held_out: bool, clips: list[dict[str, Any]]) -> dict[str, Any]:
        indices = np.full(self.batch_size, -1)
        indices[: len(clips)] = [row["clip_index"] for row in clips]
        return {
            "slot": np.int64(slot),
            "held_out": np.bool_(held_out),
            "clip_index": indices,
            "video": np.zeros((self.batch_size, self.clip_bytes), np.uint8),
            f"{LABEL}audio": np.zeros(self.batch_size, np.int32),
            "rejects": "[]",
        }


@dataclass(frozen=True)
class StubSlots(Slots):
    clip_bytes: int = 1000
    seconds: float = 0.0

    @property
    def decode(self) -> Any:
        return Stub(self.order.batch_size, self.clip_bytes, self.seconds)


class Nothing:
    """An encoder that takes no time: features of zeros, in one row, as `Encode` returns them."""

    def __call__(self, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        clips = row["clip_index"].reshape(1, -1)
        return {"clip_index": clips, "features": np.zeros((*clips.shape, 512), np.float16)}
