"""What a clustering needs to go on after a death: kilobytes, written after every iteration."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np

from pipeline.storage import Location


@dataclass
class Attempt:
    """One run of k-means from one seeding."""

    centroids: np.ndarray  # float32[k, d]
    bias: np.ndarray  # float64[k] of balance, zeros without
    objective: list[float] = field(default_factory=list)  # sum of squared distances by iteration


@dataclass
class State:
    """The attempts of a clustering."""

    key: str  # of the settings and features that the state belongs to
    restart: int = 0  # number of the current attempt
    current: Attempt | None = None  # being iterated; None before its seeding
    best: Attempt | None = None  # finished, of the lowest objective so far

    def save(self, out: Location) -> None:
        arrays = {"key": np.array(self.key), "restart": np.array(self.restart)}
        for name, attempt in (("current", self.current), ("best", self.best)):
            if attempt is not None:
                arrays |= {f"{name}_{part}": np.array(v) for part, v in vars(attempt).items()}
        sink = io.BytesIO()
        np.savez(sink, **arrays)  # type: ignore[arg-type]
        (out / "state.npz").write_bytes(sink.getvalue())

    @classmethod
    def load(cls, out: Location, key: str) -> State | None:
        """The state in ``out`` if there is one that belongs to ``key``."""
        place = out / "state.npz"
        if not place.exists():
            return None
        with np.load(io.BytesIO(place.read_bytes())) as file:
            if str(file.get("key")) != key:
                return None

            def attempt(name: str) -> Attempt | None:
                if f"{name}_bias" not in file:
                    return None
                objective = file[f"{name}_objective"].tolist()
                return Attempt(file[f"{name}_centroids"], file[f"{name}_bias"], objective)

            return cls(key, int(file["restart"]), attempt("current"), attempt("best"))

    @staticmethod
    def clear(out: Location) -> None:
        """Remove from a finished ``out`` what only an unfinished one needs."""
        (out / "state.npz").delete()
        out.sweep()
