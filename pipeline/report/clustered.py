"""The clusterings of a run, as the report reads them: in tasks, one of all clips at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from pipeline import methods
from pipeline.clustering.index import Index
from pipeline.clustering.labels import read_labels
from pipeline.errors import UserError
from pipeline.manifest import NAME, Damaged
from pipeline.run import Run
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.console import say

TYPICAL, AT_RANDOM = 8, 6  # clips of each cluster


@dataclass(frozen=True)
class Clustered:
    """A finished clustering.

    Attributes:
        name: of the clustering, as the method calls it; number: the round of its encoders.
        modalities: whose features were clustered.
        sizes: int64 [k].
        objective: the sum of squared distances at the end.
        typical, at_random: int64 [k, n], clip indices, -1 where there are fewer; of the typical
            ones the nearest to the centroid first.
        features: folder of each modality's features; empty where a round's are deleted.
        num_clips: of the clips table.
    """

    name: str
    number: int
    modalities: tuple[str, ...]
    sizes: np.ndarray
    typical: np.ndarray
    at_random: np.ndarray
    features: tuple[Location, ...]
    out: Location
    num_clips: int

    @property
    def k(self) -> int:
        return len(self.sizes)

    @property
    def key(self) -> str:
        """Name of its data on the page."""
        return f"{self.name}/{self.number}"


def clusterings_of(run: Run, num_clips: int, seed: int) -> list[Clustered]:
    """Every finished clustering, the oldest first.

    One that is damaged is left out, and named.
    """
    places = list(_places(run))
    task = ray.remote(_read).options(**decoding(run.config.resources))
    answers = [task.remote(out, num_clips, seed) for _, _, out in places]
    found = []
    for (number, name, out), answer in zip(places, answers):
        modalities = methods.get(run.config.method).clusterings[name]
        now = run.encoders_after(run.round(number))
        folders = tuple(now.features(modality) for modality in modalities)
        if not all((folder / NAME).exists() for folder in folders):
            folders = ()
        try:
            with unwrapped():
                sizes, typical, at_random = ray.get(answer)
        except (Damaged, UserError) as error:
            say(f"warning: the {name} clusters of round {number} are left out: {error}")
            continue
        found.append(
            Clustered(name, number, modalities, sizes, typical, at_random, folders, out, num_clips)
        )
    return found


def _places(run: Run) -> Iterator[tuple[int, str, Location]]:
    for number in range((run.last_round() or 0) + 1):
        for name in methods.get(run.config.method).clusterings:
            out = run.round(number).clusters(name)
            if (out / NAME).exists():
                yield number, name, out


def _read(out: Location, num_clips: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    index = Index(out, num_clips)
    sizes = np.array(index.describe()["sizes"], np.int64)
    typical, at_random = index.examples(max(TYPICAL, AT_RANDOM), seed)
    return sizes, typical[:, :TYPICAL], at_random[:, :AT_RANDOM]


def labels_of(found: Sequence[Clustered], clips: np.ndarray, run: Run) -> list[np.ndarray]:
    """int32 [n] for each clustering: the labels of these clip indices, -1: none."""
    task = ray.remote(_labels).options(**decoding(run.config.resources))
    boxed = ray.put(clips)
    with unwrapped():
        return ray.get([task.remote(each.out, each.num_clips, boxed) for each in found])


def _labels(out: Location, num_clips: int, clips: np.ndarray) -> np.ndarray:
    return read_labels(out, num_clips)[clips]


def margins_of(of: Clustered, features: np.ndarray, run: Run) -> np.ndarray:
    """float32 [m] of raw features [m, d], modalities side by side; see `Index.margins`."""
    task = ray.remote(_margins).options(**decoding(run.config.resources))
    with unwrapped():
        return ray.get(task.remote(of.out, of.num_clips, features))


def _margins(out: Location, num_clips: int, features: np.ndarray) -> np.ndarray:
    return Index(out, num_clips).margins(features)


def newest(found: Sequence[Clustered]) -> dict[str, Clustered]:
    """By name, the clustering of the highest round."""
    return {each.name: each for each in found}
