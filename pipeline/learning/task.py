"""What one update of a method is asked to learn, and what its workers are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import ray

from pipeline.clips.table import PublishedClips
from pipeline.config import Config
from pipeline.learning.schedule import ScheduleShape
from pipeline.storage import Location
from pipeline.telemetry.progress import Meter

Key = tuple[int, int, int]  # (seed, round, update)
Heads = Mapping[str, Mapping[str, int]]  # encoder → clustering it predicts → k


@dataclass(frozen=True)
class PublishedLabels:
    """What a head learns to predict, in the object store.

    Attributes:
        boxed: reference to int32 [N] in a list; -1 is no label.
        k: number of clusters or classes.
    """

    boxed: list[ray.ObjectRef]
    k: int

    @classmethod
    def of(cls, labels: np.ndarray, k: int) -> Self:
        """Labels int32 [N] of this process, put into the object store."""
        return cls([ray.put(labels)], k)


@dataclass(frozen=True)
class LearningTask:
    """One update: which encoders learn which labels from which clips.

    Attributes:
        clips: N clips.
        heads: encoder → the labels that it predicts, one head each.
        labels: by name, all that the heads predict.
        weights: safetensors of both encoders before the update.
        out: folder for ``encoders.safetensors``, ``heads.safetensors`` and, last, ``metrics.json``.
        rejects: folder for the rejects of this update, beside those of other stages.
        key: what is drawn depends on it alone.
        title: shown to the user.
        needs_all_labels: a clip must have every label to be drawn; else one is enough.
        frozen: only the heads learn (evaluation).
        bank: modality → folder for the features that training computes anyway; None: not kept.
    """

    clips: PublishedClips
    heads: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, PublishedLabels]
    weights: Location
    out: Location
    rejects: Location
    config: Config
    key: Key
    title: str
    needs_all_labels: bool = False
    frozen: bool = False
    bank: Mapping[str, Location] | None = None

    @property
    def spec(self) -> LearnerSpec:
        """What its workers build their learners from."""
        heads = {m: {name: self.labels[name].k for name in ns} for m, ns in self.heads.items()}
        return LearnerSpec(heads, self.weights, self.key, self.frozen)

    @property
    def rejects_prefix(self) -> str:
        """How the names of this update's parts begin, among those of its round."""
        return f"learn-{self.key[-1]}"


@dataclass(frozen=True)
class LearnerSpec:
    """What a `Learner` is built from.

    Attributes:
        heads: which encoder predicts which labels, and their k.
        weights: safetensors of both encoders.
        key: seeds the new heads.
        frozen: the encoders stay as they are, BatchNorm's statistics included; the heads learn.
    """

    heads: Heads
    weights: Location
    key: Key
    frozen: bool = False


@dataclass(frozen=True)
class WorkerTask:
    """What each training worker is given.

    Attributes:
        task: what to learn.
        device: ``cpu`` or ``cuda``.
        schedule: the steps to take.
        meter: counts the clips that were trained on.
        last_seen: boxed bool [slots · B], see `Schedule.last_seen`; only with a bank.
    """

    task: LearningTask
    device: str
    schedule: ScheduleShape
    meter: Meter
    last_seen: list[ray.ObjectRef] | None = None
