"""What a clustering needs to go on after a death: kilobytes, written after every iteration."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np

from pipeline.manifest import Damaged, digest_of, signed, unsigned
from pipeline.storage import Location

_NAME = "state.npz"


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
    transform: str  # digest of the transform's file, which all of it depends on
    restart: int = 0  # number of the current attempt
    current: Attempt | None = None  # being iterated; None before its seeding
    best: Attempt | None = None  # finished, of the lowest objective so far

    def save(self, out: Location) -> None:
        arrays = {name: np.array(getattr(self, name)) for name in ("key", "transform", "restart")}
        for name, attempt in (("current", self.current), ("best", self.best)):
            if attempt is not None:
                arrays |= {f"{name}_{part}": np.array(v) for part, v in vars(attempt).items()}
        sink = io.BytesIO()
        np.savez(sink, **arrays)  # type: ignore[arg-type]
        (out / _NAME).write_bytes(signed(sink.getvalue()))

    @classmethod
    def load(cls, out: Location, key: str) -> State | None:
        """The state in ``out`` if there is one that belongs to ``key``.

        Raises:
            Damaged: it, or the transform's file, is not as it was written.
        """
        place = out / _NAME
        if not place.exists():
            return None
        try:
            written = unsigned(place.read_bytes())
        except ValueError as error:
            raise Damaged(place, str(error)) from None
        with np.load(io.BytesIO(written)) as file:
            if str(file.get("key")) != key:
                return None
            transform, fitted = str(file["transform"]), out / "transform.npz"
            if not fitted.exists() or digest_of(fitted.read_bytes()) != transform:
                raise Damaged(fitted, "it is not what the state belongs to")

            def attempt(name: str) -> Attempt | None:
                if f"{name}_bias" not in file:
                    return None
                objective = file[f"{name}_objective"].tolist()
                return Attempt(file[f"{name}_centroids"], file[f"{name}_bias"], objective)

            restart = int(file["restart"])
            return cls(key, transform, restart, attempt("current"), attempt("best"))

    @staticmethod
    def clear(out: Location) -> None:
        """Remove from a finished ``out`` what only an unfinished one needs."""
        (out / _NAME).delete()
        out.sweep()
