from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray

from pipeline.clips.table import ClipTable
from pipeline.config import LearningConfig
from pipeline.learning.schedule import (
    Schedule,
    beside_neighbours,
    draw_epoch,
    held_out_clips,
    sampling_weights,
)
from pipeline.storage import Location


def schedule(
    indexed: Location, labels: list[np.ndarray], require_all: bool = True, **settings: object
) -> Schedule:
    config = LearningConfig(**{"batch_size": 4, "epochs": 2, "held_out": 0.2, **settings})
    clips = ClipTable.open(indexed / "clips")
    boxed = [[ray.put(label)] for label in labels]
    drawn = Schedule.draw(clips, boxed, require_all, config, (0, 1, 0))
    arrays = {name: ray.get(getattr(drawn, name)[0]) for name in ("order", "held_out", "last")}
    return replace(drawn, **arrays)


def test_every_cluster_is_drawn_equally_often() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    clips = np.arange(100)
    weights = sampling_weights([labels], clips, "uniform")
    order = draw_epoch(100, weights, 300, np.random.default_rng(0))
    assert len(order) == 300
    assert np.bincount(labels[order]).tolist() == pytest.approx([100, 100, 100], abs=1)
    counts = np.bincount(order, minlength=100)
    assert set(counts[:90]) <= {1, 2}, "each clip of a cluster as often as the others"


def test_natural_sampling_draws_every_clip_once_an_epoch() -> None:
    clips = np.array([3, 5, 8, 9])
    weights = sampling_weights([np.zeros(10, int)], clips, "natural")
    assert sorted(draw_epoch(4, weights, 4, np.random.default_rng(1))) == [0, 1, 2, 3]


def test_neighbours_come_side_by_side_and_nothing_is_lost() -> None:
    rng = np.random.default_rng(0)
    files = rng.integers(0, 20, 400)
    order = beside_neighbours(files, 4, rng)
    assert sorted(order) == list(range(400))
    runs = np.split(files[order], np.flatnonzero(np.diff(files[order])) + 1)
    groups = sum(-(-np.count_nonzero(files == file) // 4) for file in range(20))
    # Two groups of one file fall beside each other once in twenty.
    assert 0.85 * groups < len(runs) <= groups
    assert len({run[0] for run in runs[:30]}) > 10  # groups are shuffled
    first, second = (rng.permutation(np.sort(files)) for _ in range(2))
    assert not np.array_equal(beside_neighbours(first, 4, rng), beside_neighbours(second, 4, rng))


def test_neighbours_change_the_order_of_an_epoch_and_not_its_clips(
    indexed: Location, local_ray: None
) -> None:
    labels = [np.arange(48, dtype=np.int32) % 4]
    apart, beside = (schedule(indexed, labels, max_neighbours=n) for n in (1, 6))
    length = 4 * apart.shape.epoch_steps
    assert not np.array_equal(apart.order, beside.order)
    for drawn in (apart, beside):
        rest = [set(drawn.order[place + 1 :]) for place in range(len(drawn.order))]
        assert drawn.last.tolist() == [clip not in r for clip, r in zip(drawn.order, rest)]
    assert sorted(apart.order[:length]) == sorted(beside.order[:length])


def test_unlabelled_clips_are_left_out_and_counted(indexed: Location, local_ray: None) -> None:
    video = np.arange(48, dtype=np.int32) % 4
    audio = video.copy()
    video[:6], audio[6:10] = -1, -1
    both = schedule(indexed, [video, audio])
    assert (both.labelled, both.skipped) == (38, 10)
    assert not set(both.order) & set(range(10))
    either = schedule(indexed, [video, audio], require_all=False)
    assert (either.labelled, either.skipped) == (48, 0)


def test_held_out_files_are_never_trained_on(indexed: Location, local_ray: None) -> None:
    drawn = schedule(indexed, [np.zeros(48, np.int32)])
    slots = drawn.order.reshape(-1, 4)
    held = set(slots[drawn.held_out].ravel())
    assert held
    assert not held & set(slots[~drawn.held_out].ravel())
    per_epoch = drawn.shape.epoch_steps
    assert len(slots) == 2 * per_epoch
    assert held == set(np.flatnonzero(held_out_clips(ClipTable.open(indexed / "clips"), 0.2, 0)))


def test_held_out_files_are_never_all(indexed: Location, local_ray: None) -> None:
    """Of the files, and of those with labels of a head; the test above has the usual case."""
    rare = np.full(48, -1, np.int32)
    rare[5:7] = 1
    labels = [np.arange(48, dtype=np.int32) % 4, rare]
    drawn = schedule(indexed, labels, require_all=False, held_out=1.0)
    trained = {*drawn.order.reshape(-1, 4)[~drawn.held_out].ravel()}
    assert len(trained) == 2, "a file with each label"
    assert trained & {5, 6}
    both = schedule(indexed, labels, held_out=1.0)
    assert len({*both.order[np.repeat(~both.held_out, 4)]}) == 1
    assert (both.labelled, both.skipped) == (2, 46)


def test_without_a_label_there_is_no_schedule(indexed: Location, local_ray: None) -> None:
    drawn = schedule(indexed, [np.full(48, -1, np.int32)])
    assert (len(drawn.order), drawn.labelled, drawn.skipped) == (0, 0, 48)


def test_the_order_is_the_same_for_any_number_of_workers(
    indexed: Location, local_ray: None
) -> None:
    labels = [np.arange(48, dtype=np.int32) % 4]
    one = schedule(indexed, labels, workers=1, batch_size=8)
    two = schedule(indexed, labels, workers=2, batch_size=4)
    assert np.array_equal(one.order, two.order)
    assert np.array_equal(one.order, schedule(indexed, labels, workers=1, batch_size=8).order)
