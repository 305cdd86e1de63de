"""What batches of the encoders and steps of training take on the device that does them.

The real classes, `Encode` and `Learner`, on clips of the run, in a process that is placed as the
stage's own. Batches grow up to the run's as long as they are done in time: where a whole batch
takes minutes, as with full networks on a laptop, a part of one stands for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots, row_of
from pipeline.clips.table import PublishedClips
from pipeline.config import Config
from pipeline.methods import MODALITIES, Method, Update
from pipeline.planning.fleet import Fleet
from pipeline.planning.timeline import ClipPass
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import KEEPS_MEMORY, encoding, training
from pipeline.storage import Location
from pipeline.telemetry.progress import Meter

_LEAST = 4  # clips
_BUDGET_S = 1.0, 3.0  # for a part of a batch, for a whole one
_REPEATS = 20  # at most

Batch = dict[str, Any]
Ladder = dict[int, float]  # clips in a batch → seconds a clip


@dataclass(frozen=True)
class DeviceTime:
    """Of the largest batch that was done in time."""

    clip_s: float  # seconds of the device for a clip
    batch: int
    half: float  # what a clip of half that batch takes, as a multiple

    @classmethod
    def of(cls, ladder: Ladder) -> DeviceTime:
        sizes = sorted(ladder)
        largest, before = sizes[-1], sizes[max(len(sizes) - 2, 0)]
        return cls(ladder[largest], largest, ladder[before] / ladder[largest])


class _Quiet(Meter):
    """Counts nothing."""

    def __init__(self) -> None: ...

    def add(self, notes: dict[str, Any] | None = None, **counts: float) -> None: ...


def encode_times(
    clips: PublishedClips,
    passes: Sequence[ClipPass],
    weights: Location,
    config: Config,
    device: str,
) -> list[tuple[DeviceTime, dict[str, int]]]:
    """Of each kind of embedding pass, and the dimensions of its features, by modality."""
    options = encoding(config.resources, device)
    given = (clips, [(each.modalities, each.raw) for each in passes], weights, config, device)
    with unwrapped():
        found = ray.get(_encoding.options(**options).remote(*given))
    return [(DeviceTime.of(ladder), dims) for ladder, dims in found]


def step_times(
    clips: PublishedClips, method: Method, weights: Location, config: Config, fleet: Fleet
) -> list[tuple[DeviceTime, DeviceTime]]:
    """Of each update of the method: a training step, and a batch of the held-out clips."""
    options = training(config.learning, config.resources, fleet.device)
    if fleet.device == "cpu":
        options |= {"runtime_env": {"env_vars": KEEPS_MEMORY}}
    together = -(-config.learning.workers // max(fleet.trainers, 1))
    given = (clips, method.updates, weights, config, fleet.device, together)
    with unwrapped():
        ladders = ray.get(_training.options(**options).remote(*given))
    return [(DeviceTime.of(step), DeviceTime.of(held)) for step, held in ladders]


@ray.remote
def _encoding(
    clips: PublishedClips,
    passes: Sequence[tuple[tuple[str, ...], bool]],
    weights: Location,
    config: Config,
    device: str,
) -> list[tuple[Ladder, dict[str, int]]]:
    from pipeline.embedding.encode import Encode

    batch = _decoded(clips, config, config.embedding.batch_size)
    found = []
    for modalities, raw in passes:
        encode = Encode(None if raw else weights, modalities, config, device, _Quiet())

        def run(some: Batch, encode: Encode = encode) -> None:
            encode(row_of([some], 1))

        dims = {m: int(encode.networks[m].dim) for m in modalities}  # type: ignore[arg-type]
        found.append((_ladder(run, batch), dims))
    return found


@ray.remote
def _training(
    clips: PublishedClips,
    updates: Sequence[Update],
    weights: Location,
    config: Config,
    device: str,
    workers_here: int,
) -> list[tuple[Ladder, Ladder]]:
    import torch

    from pipeline.learning.learner import Learner, read
    from pipeline.learning.task import LearnerSpec
    from pipeline.runtime.devices import use_threads

    use_threads(device, workers_here, config.learning.threads)
    batch = _decoded(clips, config, config.learning.batch_size)
    k, rng, on = config.clustering.k, np.random.default_rng(config.seed), torch.device(device)
    found = []
    for number, update in enumerate(updates):
        heads = {m: dict.fromkeys(names, k) for m, names in update.heads.items()}
        size = len(batch["clip_index"])
        labels = {f"label_{name}": rng.integers(k, size=size) for name in update.clusterings}
        some = batch | {name: label.astype(np.int32) for name, label in labels.items()}
        spec = LearnerSpec(heads, weights, (config.seed, 1, number))
        learner = Learner(spec, config, on, lambda model: model.to(on))

        def step(some: Batch, learner: Learner = learner) -> None:
            read(learner.step([some], 0.5))

        found.append((_ladder(step, some), _ladder(learner.evaluate, some)))
    return found


def _decoded(clips: PublishedClips, config: Config, size: int) -> Batch:
    """A batch of both modalities; of fewer clips than it holds, these repeated."""
    slots = Slots(clips, Order(len(clips), min(size, len(clips))), config.clips, MODALITIES)
    batch = slots.decoded(0)
    count = len(batch["clip_index"])
    rows = np.resize(np.arange(count), size)
    return {
        name: value[rows] if isinstance(value, np.ndarray) and value.ndim else value
        for name, value in batch.items()
    }


def _ladder(run: Callable[[Batch], object], batch: Batch) -> Ladder:
    """Seconds a clip of batches that grow to the whole one; the median of some repeats each."""
    size = len(batch["clip_index"])
    found: Ladder = {}
    for count in sorted({min(_LEAST, size), max(size // 2, min(_LEAST, size)), size}):
        some, budget_s = _first(batch, count), _BUDGET_S[count == size]
        if found and 2 * count * found[max(found)] > _BUDGET_S[1]:
            break
        took = [_seconds(run, some)]  # it warms up
        while len(took) <= _REPEATS and sum(took) < budget_s:
            took.append(_seconds(run, some))
        found[count] = float(np.median(took[1:] or took)) / count
    return found


def _first(batch: Batch, count: int) -> Batch:
    return {
        name: value[:count] if isinstance(value, np.ndarray) and value.ndim else value
        for name, value in batch.items()
    }


def _seconds(run: Callable[[Batch], object], batch: Batch) -> float:
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began
