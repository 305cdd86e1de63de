"""The clips that a round learns from, in order: drawn once, the same for any number of workers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from pipeline.clips.table import ClipTable
from pipeline.config import LearningConfig


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


@dataclass(frozen=True)
class Schedule:
    """The batches of all epochs."""

    order: np.ndarray  # int64 [slots · batch_size], clip indices
    held_out: np.ndarray  # bool [slots]
    shape: ScheduleShape
    labelled: int  # clips that could be drawn
    skipped: int  # clips without the labels to be drawn

    def last_seen(self) -> np.ndarray:
        """bool [slots · batch_size]: where a clip comes for the last time."""
        backwards = np.unique(self.order[::-1], return_index=True)[1]
        last = np.zeros(len(self.order), bool)
        last[len(self.order) - 1 - backwards] = True
        return last


@ray.remote
def draw_schedule(
    clips: ClipTable,
    boxed_labels: Sequence[list[ray.ObjectRef]],
    require_all: bool,
    config: LearningConfig,
    key: tuple[int, ...],
) -> Schedule:
    """Draw a round's schedule from its pseudo-labels.

    Args:
        boxed_labels: per clustering a boxed reference to int32 [N]; -1 is no label.
        require_all: a clip must have every label to be drawn; else one is enough.
        key: (seed, round, update).
    """
    labels = [ray.get(boxed[0]) for boxed in boxed_labels]
    has_label = np.stack([label >= 0 for label in labels])
    usable = np.atleast_1d(has_label.all(axis=0) if require_all else has_label.any(axis=0))
    if not usable.any():
        none = np.zeros(0, np.int64)
        return Schedule(none, none.astype(bool), ScheduleShape(0, 0, 0, ""), 0, len(usable))
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
    parts = []
    files = file_numbers(clips)[train] if config.max_neighbours > 1 else None
    for _ in range(epochs):
        drawn = draw_epoch(len(train), weights, steps * global_batch, rng)
        if files is not None:
            drawn = drawn[beside_neighbours(files[drawn], config.max_neighbours, rng)]
        parts += [train[drawn], tail]
    order = np.concatenate(parts)
    slots = [steps * config.step_batches, held_steps * config.step_batches]
    held_out = np.tile(np.repeat([False, True], slots), epochs)
    digest = hashlib.blake2b(order.data, digest_size=8)
    for array in (held_out, *labels):
        digest.update(np.ascontiguousarray(array).data)
    shape = ScheduleShape(steps, held_steps, epochs, digest.hexdigest())
    return Schedule(order, held_out, shape, int(usable.sum()), int((~usable).sum()))


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
    return clips.column("uri").combine_chunks().dictionary_encode().indices.to_numpy()


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
