"""How many clips each stage takes: counted part by part of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.learning.schedule import held_out_clips
from pipeline.methods import MODALITIES, Method

_EXACT = 100_000  # clips, up to which held-out files are looked up


@dataclass(frozen=True)
class ClipCounts:
    """Of a clips table and the splits that a run takes."""

    indexed: int
    of: dict[tuple[bool, ...], int]  # has video, has audio → clips

    @classmethod
    def read(cls, clips: ClipTable, config: Config) -> ClipCounts:
        splits = config.clips.split

        def count(part: pa.Table) -> list[int]:
            chosen = pc.is_in(part["split"], value_set=pa.array(splits, pa.string()))
            kinds = part if not splits else part.filter(chosen)
            has = [kinds[f"has_{m}"].to_numpy() for m in MODALITIES]
            return [
                int(np.logical_and.reduce([h == k for h, k in zip(has, kind)]).sum())
                for kind in _KINDS
            ]

        columns = ["split", *(f"has_{m}" for m in MODALITIES)]
        sums = np.sum(clips.of_each_part(columns, count), axis=0)
        return cls(len(clips), dict(zip(_KINDS, sums.tolist())))

    def with_any(self, modalities: Sequence[str]) -> int:
        return sum(count for kind, count in self.of.items() if any(_of(kind, modalities)))

    def with_all(self, modalities: Sequence[str]) -> int:
        return sum(count for kind, count in self.of.items() if all(_of(kind, modalities)))

    @property
    def chosen(self) -> int:
        return sum(self.of.values())


_KINDS = [(video, audio) for video in (False, True) for audio in (False, True)]


def _of(kind: tuple[bool, ...], modalities: Sequence[str]) -> list[bool]:
    return [has for m, has in zip(MODALITIES, kind) if m in modalities]


@dataclass(frozen=True)
class UpdateSteps:
    """What an update takes, at most: the epochs of its schedule (`Schedule.draw`)."""

    labelled: int
    steps: int  # of all epochs
    batch: int  # clips of a step
    held_clips: int  # of all epochs, padded to whole steps

    @property
    def drawn(self) -> int:
        return self.steps * self.batch


def update_steps(
    clips: ClipTable, counts: ClipCounts, config: Config, method: Method, number: int
) -> UpdateSteps:
    """Of an update of the method, if no clip is rejected."""
    learning, update = config.learning, method.updates[number]
    needed = method.modalities_of(update)
    every = method.needs_all_labels(update) or len(update.clusterings) == 1
    labelled = counts.with_all(needed) if every else counts.with_any(needed)
    share = _held_share(clips, config)
    held, train = round(share * labelled), labelled - round(share * labelled)
    batch = learning.batch_size * learning.step_batches
    size = learning.epoch_clips or train
    steps = max(round(size * min(learning.epochs, 1) / batch), 1)
    epochs = math.ceil(learning.epochs)
    return UpdateSteps(labelled, epochs * steps, batch, epochs * math.ceil(held / batch) * batch)


def _held_share(clips: ClipTable, config: Config) -> float:
    """Of the clips; of many it is that of the settings, of few the draw decides."""
    share = config.learning.held_out
    if len(clips) > _EXACT or not share:
        return share
    chosen = clips.in_splits(config.clips.split)
    return float(held_out_clips(clips, share, config.seed, [chosen])[chosen].mean())
