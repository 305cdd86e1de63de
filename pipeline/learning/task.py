"""The task of one update of a method, and of its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import ray

from pipeline.clips.table import PublishedClips
from pipeline.config import Config
from pipeline.learning.feed import Plan
from pipeline.learning.schedule import ScheduleShape
from pipeline.storage import Location
from pipeline.telemetry.progress import Meter

Key = tuple[int, int, int]  # (seed, round, update)
Heads = Mapping[str, Mapping[str, int]]  # encoder → clustering it predicts → k


@dataclass(frozen=True)
class PublishedLabels:
    """The labels that a head learns to predict, in the object store."""

    boxed: list[ray.ObjectRef]  # reference to int32 [N]; -1 is no label
    k: int  # number of clusters or classes

    @classmethod
    def of(cls, labels: np.ndarray, k: int) -> Self:
        """Labels int32 [N] of this process, put into the object store."""
        return cls([ray.put(labels)], k)


@dataclass(frozen=True)
class LearningTask:
    """One update: which encoders learn which labels from which clips."""

    clips: PublishedClips  # N clips
    heads: Mapping[str, tuple[str, ...]]  # encoder → the labels that it predicts, one head each
    labels: Mapping[str, PublishedLabels]  # by name, all that the heads predict
    weights: Location  # safetensors of both encoders before the update
    out: Location  # folder for encoders.safetensors, heads.safetensors and, last, metrics.json
    rejects: Location  # folder for the rejects of this update, beside those of other stages
    config: Config
    key: Key  # all draws depend on it alone
    title: str  # shown to the user
    needs_all_labels: bool = False  # to draw a clip; else one label is enough
    frozen: bool = False  # only the heads learn (evaluation)
    # Modality → folder for the features that training computes anyway; None: not kept.
    bank: Mapping[str, Location] | None = None
    made_of: Mapping[str, Any] = field(default_factory=dict)  # what `metrics_of` is to compare

    @property
    def spec(self) -> LearnerSpec:
        """What its workers build their learners from."""
        heads = {m: {name: self.labels[name].k for name in ns} for m, ns in self.heads.items()}
        return LearnerSpec(heads, self.weights, self.key, self.frozen)

    @property
    def rejects_prefix(self) -> str:
        """Prefix of the names of this update's parts, among those of its round."""
        return f"learn-{self.key[-1]}"


@dataclass(frozen=True)
class LearnerSpec:
    """What a `Learner` is built from."""

    heads: Heads
    weights: Location  # safetensors of both encoders
    key: Key  # seeds the new heads
    frozen: bool = False  # encoders stay, BatchNorm's statistics included; only the heads learn


@dataclass(frozen=True)
class WorkerTask:
    """What each training worker is given."""

    task: LearningTask
    device: str  # ``cpu`` or ``cuda``
    schedule: ScheduleShape
    meter: Meter  # counts the clips that were trained on
    plan: Plan
