"""What a clustering needs to go on after a death: kilobytes, written after every iteration."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field

import numpy as np

from pipeline.storage import Location


@dataclass
class Attempt:
    """One run of k-means from one seeding.

    Attributes:
        centroids: float32[k, d].
        bias: float64[k] of balance, zeros without.
        objective: sum of squared distances at every iteration so far.
    """

    centroids: np.ndarray
    bias: np.ndarray
    objective: list[float] = field(default_factory=list)


@dataclass
class State:
    """Attributes:
    key: of the settings and features that the state belongs to.
    restart: number of the current attempt.
    current: the attempt being iterated; None before its seeding.
    best: the finished attempt of the lowest objective so far.
    """

    key: str
    restart: int = 0
    current: Attempt | None = None
    best: Attempt | None = None

    def save(self, out: Location) -> None:
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, object] = {"key": self.key, "restart": self.restart}
        for name, attempt in (("current", self.current), ("best", self.best)):
            if attempt is not None:
                arrays[name] = attempt.centroids
                arrays[f"{name}_bias"] = attempt.bias
                meta[name] = [value.hex() for value in attempt.objective]
        sink = io.BytesIO()
        np.savez(sink, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        (out / "state.npz").write_bytes(sink.getvalue())

    @classmethod
    def load(cls, out: Location, key: str) -> State | None:
        """The state in ``out`` if there is one that belongs to ``key``."""
        place = out / "state.npz"
        if not place.exists():
            return None
        with np.load(io.BytesIO(place.read_bytes())) as file:
            meta = json.loads(file["meta"].tobytes())
            if meta["key"] != key:
                return None
            attempts = [
                Attempt(file[name], file[f"{name}_bias"], [float.fromhex(v) for v in meta[name]])
                if name in meta
                else None
                for name in ("current", "best")
            ]
        return cls(key, meta["restart"], *attempts)

    @staticmethod
    def clear(out: Location) -> None:
        """Remove from a finished ``out`` what only an unfinished one needs."""
        (out / "state.npz").delete()
        out.sweep()
