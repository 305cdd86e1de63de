from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pipeline.clips.indexing import index
from pipeline.clips.rejects import RejectedClip
from pipeline.clips.slots import Order
from pipeline.clips.stream import Augment, Slots, batches_of
from pipeline.clips.table import ClipTable
from pipeline.storage import Location
from tests.conftest import shared_media, tiny

pytestmark = pytest.mark.usefixtures("local_ray")
BOTH = ("video", "audio")


def read(
    run: Location,
    order: Order,
    modalities: tuple[str, ...] = BOTH,
    slots: np.ndarray | None = None,
    **more: Any,
) -> list[dict]:
    config = tiny()
    clips = ClipTable.open(run / "clips").publish()
    dataset = Slots(clips, order, config.clips, modalities, **more).stream({"num_cpus": 0.5}, slots)
    batches = [batch for row in dataset.iter_batches(batch_size=1) for batch in batches_of(row)]
    return sorted(batches, key=lambda batch: int(batch["slot"]))


def test_every_clip_once_and_the_last_batch_padded(indexed: Location) -> None:
    batches = read(indexed, Order(48, 20))
    assert [b["clip_index"].shape for b in batches] == [(20,)] * 3
    indices = np.concatenate([b["clip_index"] for b in batches])
    assert indices.tolist() == [*range(48), *[-1] * 12]
    first = batches[0]
    assert first["video"].shape == (20, 4, 24, 24, 3)
    assert first["video"].dtype == np.uint8
    assert first["audio"].shape == (20, 16_000)
    assert first["audio"].dtype == np.float32
    assert first["has_video"].all()
    assert first["has_audio"].all()
    assert first["video"].std() > 10
    assert first["audio"].std() > 0.01
    assert not batches[2]["has_video"][8:].any()


@pytest.mark.parametrize("together", [1, 3])
def test_slots_leave_in_their_order(
    together: int, indexed: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.clips.stream._JOINED", 5)
    monkeypatch.setattr("pipeline.clips.stream._ROWS", 12 // together)
    monkeypatch.setattr(
        ray.data.DataContext.get_current().execution_options, "preserve_order", True
    )
    clips = ClipTable.open(indexed / "clips").publish()
    dataset = Slots(clips, Order(48, 4), tiny().clips, BOTH).stream({"num_cpus": 0.5})

    @ray.remote(num_cpus=0.1)
    def consume(part: ray.data.DataIterator) -> list[int]:
        rows = part.iter_batches(batch_size=1)
        return [int(batch["slot"]) for row in rows for batch in batches_of(row)]

    parts = dataset.streaming_split(2, equal=False)
    rows = np.arange(12).reshape(-1, together)
    assert ray.get([consume.remote(part) for part in parts]) == [
        rows[0::2].ravel().tolist(),
        rows[1::2].ravel().tolist(),
    ]


def test_only_wanted_modalities_are_decoded(indexed: Location) -> None:
    (batch,) = read(indexed, Order(16, 16), ("audio",))
    assert "video" not in batch
    assert batch["has_audio"].all()


def test_training_draws_depend_on_the_key_alone(indexed: Location) -> None:
    chosen = np.array([5, 5, 30, 2, 47, 11, 9, 0])
    orders = [Order(8, 4, [ray.put(chosen)]) for _ in range(2)]
    first, again = (read(indexed, order, augment=Augment(0, 1)) for order in orders)
    other = read(indexed, orders[0], augment=Augment(0, 2))
    for a, b in zip(first, again):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(first[0]["video"], other[0]["video"])
    assert not np.array_equal(first[0]["video"][0], first[0]["video"][1]), "drawn twice, not copied"


def test_held_out_slots_are_not_augmented(indexed: Location) -> None:
    order = Order(32, 16, held_out=[ray.put(np.array([False, True]))])
    plain = read(indexed, Order(32, 16))
    mixed = read(indexed, order, augment=Augment(0, 1))
    assert not np.array_equal(plain[0]["video"], mixed[0]["video"])
    assert np.array_equal(plain[1]["video"], mixed[1]["video"])
    assert [bool(b["held_out"]) for b in mixed] == [False, True]


def test_labels_are_joined_by_clip_index(indexed: Location) -> None:
    labels = np.arange(48, dtype=np.int32) * 10
    order = Order(3, 4, [ray.put(np.array([7, 40, 1]))])
    (batch,) = read(indexed, order, labels={"audio": [ray.put(labels)]})
    assert batch["label_audio"].tolist() == [70, 400, 10, -1]


def test_only_the_slots_asked_for_are_decoded(indexed: Location) -> None:
    batches = read(indexed, Order(48, 16), slots=np.array([2]))
    assert [int(b["slot"]) for b in batches] == [2]
    assert batches[0]["clip_index"].tolist() == list(range(32, 48))


def test_a_clip_that_fails_is_a_row_with_a_reason(indexed: Location, tmp_path: Path) -> None:
    run = Location.of(tmp_path / "run")
    clips = (indexed / "clips" / "part-000000.parquet").read_table()
    uris = clips["uri"].to_pylist()
    uris[3] = str(tmp_path / "gone.mp4")
    broken = clips.set_column(clips.schema.get_field_index("uri"), "uri", [uris])
    (run / "clips" / "part-000000.parquet").write_table(broken)
    (batch,) = read(run, Order(8, 8))
    assert batch["has_video"].tolist() == [n != 3 for n in range(8)]
    (reject,) = RejectedClip.loads(str(batch["rejects"]))
    assert reject[:5] == (3, uris[3], clips["clip_id"][3].as_py(), None, "missing")
    assert batch["video"][3].max() == 0


def test_one_pass_over_the_zoo_ends_with_every_clip_decoded_or_rejected(tmp_path: Path) -> None:
    run = Location.of(tmp_path)
    index(str(shared_media("zoo")), run, tiny())
    count = len(ClipTable.open(run / "clips"))
    batches = read(run, Order(count, 16))
    decoded = np.concatenate([b["has_video"] | b["has_audio"] for b in batches])[:count]
    rejected = [reject[0] for b in batches for reject in json.loads(str(b["rejects"]))]
    assert decoded.sum() + len(rejected) == count
    assert not decoded[rejected].any()
