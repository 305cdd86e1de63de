"""The clips that a round learns from, in order: drawn once, the same for any number of workers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from pipeline.clips.table import ClipTable, distinct
from pipeline.config import LearningConfig
from pipeline.runtime.placement import on_this_node


@dataclass(frozen=True)
class ScheduleShape:
    """The steps of a schedule. A step takes ``step_batches`` slots, whichever workers there are."""

    train_steps: int  # of one epoch
    held_out_steps: int  # of one epoch, after its training steps
    epochs: int  # how many there are at most
    # Of the order and the labels; of the whole task (`learn`) once there is one: a checkpoint only
    # continues the one it was made in.
    digest: str

    @property
    def epoch_steps(self) -> int:
        return self.train_steps + self.held_out_steps

    def num_slots(self, step_batches: int) -> int:
        """Of all epochs, where a step takes so many."""
        return self.epochs * self.epoch_steps * step_batches


@dataclass(frozen=True)
class Schedule:
    """The batches of all epochs. The arrays lie in the object store, and belong to its process."""

    shape: ScheduleShape
    labelled: int  # clips that could be drawn
    skipped: int  # clips without the labels to be drawn
    order: list[ray.ObjectRef]  # boxed int32 [slots · batch_size], clip indices
    held_out: list[ray.ObjectRef]  # boxed bool [slots]
    last: list[ray.ObjectRef]  # boxed bool [slots · batch_size]: where a clip comes last

    @classmethod
    def draw(
        cls,
        clips: ClipTable,
        boxed_labels: Sequence[list[ray.ObjectRef]],
        require_all: bool,
        config: LearningConfig,
        key: tuple[int, ...],
    ) -> Schedule:
        """Draw a round's schedule from its pseudo-labels, in a task on this process's node.

        Args:
            boxed_labels: per clustering a boxed reference to int32 [N]; -1 is no label.
            require_all: a clip must have every label to be drawn; else one is enough.
            key: (seed, round, update).
        """
        given = (clips, boxed_labels, require_all, config, key)
        drawn: Any = _draw.options(**on_this_node()).remote(*given)
        return cls(*ray.get(drawn[0]), *([array] for array in drawn[1:]))


@ray.remote(num_returns=4)
def _draw(
    clips: ClipTable,
    boxed_labels: Sequence[list[ray.ObjectRef]],
    require_all: bool,
    config: LearningConfig,
    key: tuple[int, ...],
) -> tuple[tuple[ScheduleShape, int, int], np.ndarray, np.ndarray, np.ndarray]:
    """See `Schedule.draw`."""
    labels = [ray.get(boxed[0]) for boxed in boxed_labels]
    has_label = np.stack([label >= 0 for label in labels])
    usable = np.atleast_1d(has_label.all(axis=0) if require_all else has_label.any(axis=0))
    if not usable.any():
        none = np.zeros(0, bool)
        return (ScheduleShape(0, 0, 0, ""), 0, len(usable)), none.astype(np.int32), none, none
    held = held_out_clips(clips, config.held_out, key[0], [usable, *(has_label & usable)])
    held &= usable
    train, tail = np.flatnonzero(usable & ~held), np.flatnonzero(held)
    weights = sampling_weights(labels, train, config.sampling)
    rng = np.random.default_rng(key)
    global_batch = config.batch_size * config.step_batches
    size = config.epoch_clips or len(train)
    # An epoch is whole steps: at least one, else to the nearest.
    steps = max(round(size * min(config.epochs, 1) / global_batch), 1)
    epochs, held_steps = math.ceil(config.epochs), math.ceil(len(tail) / global_batch)
    # Padded by repetition, so that every worker has whole batches; the mean hardly moves.
    tail = np.resize(tail, held_steps * global_batch)
    order = np.empty((epochs, (steps + held_steps) * global_batch), np.int32)
    order[:, steps * global_batch :] = tail
    files = file_numbers(clips)[train] if config.max_neighbours > 1 else None
    for epoch in order:
        drawn = draw_epoch(len(train), weights, steps * global_batch, rng)
        if files is not None:
            drawn = drawn[beside_neighbours(files[drawn], config.max_neighbours, rng)]
        epoch[: len(drawn)] = train[drawn]
    slots = [steps * config.step_batches, held_steps * config.step_batches]
    held_out = np.tile(np.repeat([False, True], slots), epochs)
    digest = hashlib.blake2b(digest_size=8)
    for array in (*(epoch.astype(np.int64) for epoch in order), held_out, *labels):
        digest.update(np.ascontiguousarray(array).data)
    shape = ScheduleShape(steps, held_steps, epochs, digest.hexdigest())
    last = last_seen(order.reshape(-1), len(usable))
    return (shape, int(usable.sum()), int((~usable).sum())), order.reshape(-1), held_out, last


def last_seen(order: np.ndarray, num_clips: int) -> np.ndarray:
    """bool [n]: where in `order`, int [n] of clip indices, a clip comes for the last time."""
    place = np.full(num_clips, -1, np.int64)
    place[order] = np.arange(len(order))  # of equal indices the last one counts
    last = np.zeros(len(order), bool)
    last[place[place >= 0]] = True
    return last


def held_out_clips(
    clips: ClipTable, share: float, seed: int, needed: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """bool [N]: clips of the held-out files; whole files, so that no clip's neighbour leaks.

    Args:
        needed: bool [N] each; of every one some file is left to train on.
    """
    place = file_fractions(clips, seed)
    held = place < share
    for group in needed:
        if group.any() and held[group].all():
            held[place == place[group].max()] = False
    return held


def file_fractions(clips: ClipTable, seed: int) -> np.ndarray:
    """float64 [N] in [0, 1): a hash of each clip's file."""
    found: list[np.ndarray] = []
    for table in clips.read_parts(["uri"]):
        encoded = table["uri"].combine_chunks().dictionary_encode()
        fractions = [_fraction(uri, seed) for uri in encoded.dictionary.to_pylist()]
        found.append(np.array(fractions)[encoded.indices.to_numpy()])
    return np.concatenate(found)


def _fraction(uri: str, seed: int) -> float:
    digest = hashlib.blake2b(uri.encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little") / 2**64


def sampling_weights(labels: Sequence[np.ndarray], clips: np.ndarray, sampling: str) -> np.ndarray:
    """float64 [len(clips)], sums to 1: how often each clip is drawn.

    ``uniform``: every non-empty cluster is drawn equally often, as in DeepCluster; with several
    clusterings the mean of what each of them asks for.
    """
    if sampling == "natural":
        return np.full(len(clips), 1 / max(len(clips), 1))
    total = np.zeros(len(clips))
    for all_labels in labels:
        label = all_labels[clips]
        sizes = np.bincount(label[label >= 0])
        share = np.divide(1.0, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
        total += np.where(label >= 0, share[label], 0) / max(np.count_nonzero(sizes), 1)
    return total / total.sum()


def draw_epoch(n: int, weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [size] of 0..n-1, shuffled, each ⌊size·w⌋ or ⌈size·w⌉ times (systematic sampling)."""
    cumulative = np.cumsum(weights)
    cumulative[-1] = 1.0
    counts = np.diff(np.floor(cumulative * size + rng.random()), prepend=0).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(n), counts))


def file_numbers(clips: ClipTable) -> np.ndarray:
    """int64 [N]: clips of one file have the same number."""
    return distinct(clips.column("uri"))[0]


def beside_neighbours(files: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [n], an order in which up to `most` of one file follow each other; groups shuffled.

    `files` int64 [n] are already in random order, which clips of one file keep.
    """
    order = np.argsort(files, kind="stable")
    place = np.arange(len(files))
    first = np.diff(files[order], prepend=-1) != 0
    rank = place - np.maximum.accumulate(np.where(first, place, 0))
    group = np.cumsum(rank % most == 0) - 1
    return order[np.argsort(rng.random(len(files))[group], kind="stable")]
