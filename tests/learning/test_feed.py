"""Batches of several training workers: each its own, in order, wherever the training goes on."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pipeline.clips.slots import Order
from pipeline.clips.stream import Augment, Slots, row_of
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.learning.feed import Feed, Plan, arriving
from pipeline.storage import Location
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("local_ray")
BATCH = 4


class Saw:
    """Takes the place of `MediaWatch`, and keeps what it is told."""

    def __init__(self) -> None:
        self.clips: list[int] = []

    def saw(self, clips: np.ndarray, rejects: list[Any]) -> None:
        self.clips += clips.tolist()


@pytest.mark.parametrize(("workers", "first"), [(1, 0), (3, 0), (2, 5)])
def test_each_worker_gets_its_slots_in_order(
    workers: int, first: int, indexed: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task decodes up to three slots; the last row of a worker has fewer."""
    monkeypatch.setattr("pipeline.clips.stream._ROWS", 2)
    monkeypatch.setattr("pipeline.clips.stream._ROW_CLIPS", 3 * BATCH)
    chosen = np.random.default_rng(0).permutation(48).astype(np.int32)
    order = Order(48, BATCH, [ray.put(chosen)])
    clips = ClipTable.open(indexed / "clips").publish()
    slots = Slots(clips, order, tiny().clips, ("audio",), Augment(0, 1))
    batches = partial(slots.stream, {"num_cpus": 0.2})
    plan = Plan(batches, num_slots=order.num_slots, max_bytes=0, worker_cpus=0.0)
    for rank in range(workers):
        watch = Saw()
        own = arriving(plan.fed(first, rank, workers))
        feed = Feed(own, first, rank, workers, watch)  # type: ignore[arg-type]
        found = list(feed.until(order.num_slots))
        due = range(first + rank, order.num_slots, workers)
        assert [int(batch["slot"]) for batch in found] == [*due]
        assert watch.clips == [c for slot in due for c in chosen[slot * BATCH :][:BATCH].tolist()]
        alone = slots.decoded(due[-1])
        assert all(np.array_equal(found[-1][name], alone[name]) for name in alone)


def test_decoding_begins_before_the_first_batch_is_taken(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def decode(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        begun.write_text("")
        slots = [{"slot": np.asarray(slot)} for slot in rows["id"]]
        return row_of(slots, len(slots))

    batches = arriving(ray.data.range(4).map_batches(decode, batch_size=2).iterator())
    end = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < end, "nothing is decoded"
        time.sleep(0.1)
    assert sorted(int(batch["slot"]) for batch in batches) == [0, 1, 2, 3]


def test_what_breaks_the_first_batch_is_raised_where_it_is_taken() -> None:
    def decode(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise UserError("the share is away")

    batches = arriving(ray.data.range(1).map_batches(decode, batch_size=1).iterator())
    with pytest.raises(ray.exceptions.RayTaskError, match="the share is away"):
        next(batches)
    assert list(arriving(ray.data.from_blocks([]).iterator())) == []
