"""A clip store that several runs share, or that was damaged: never the wrong clip."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from pipeline import manifest
from pipeline.clips.fill import fill
from pipeline.clips.rejects import RejectedClip
from pipeline.clips.shard_index import DamagedShard, ShardIndex
from pipeline.clips.slots import Order
from pipeline.clips.table import ClipTable
from pipeline.storage import Location
from tests.clips.test_store import decoded, rewritten, shards_of
from tests.conftest import copy_clips, tiny

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.clips.fill.CLIPS_PER_SHARD", 20)


def run_of(indexed: Location, place: Path, rows: np.ndarray) -> ClipTable:
    """A run that has these clips of the small world, in this order."""
    run = copy_clips(indexed, Location.of(place))
    (run / "clips" / manifest.NAME).delete()  # it vouches for all of them
    part = run / "clips" / "part-000000.parquet"
    part.write_table(part.read_table().take(rows))
    return rewritten(run, clip_index=np.arange(len(rows)))


def test_runs_of_other_clips_share_a_store(
    indexed: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same first clips, then others: what is equal is taken, what differs is filled."""
    sides = ["clips.video.size=40", "clips.video.train_short_side=[40,48]"]
    place, config = Location.of(tmp_path / "store"), tiny("clips.video.short_side=48", *sides)
    one = run_of(indexed, tmp_path / "one", np.arange(40))
    fill(one.publish(), place, config)
    capsys.readouterr()
    rows = np.concatenate([np.arange(20), np.arange(47, 19, -1)])  # another order after the first
    two = run_of(indexed, tmp_path / "two", rows)
    published = two.publish()
    store = fill(published, place, config)
    assert "store · 28 clips in" in capsys.readouterr().out
    order = Order(8, 8, [ray.put(np.array([0, 19, 20, 21, 25, 30, 40, 47]))])
    stored = decoded(replace(published, store=store), order, config.clips)
    media = decoded(published, order, config.clips)
    assert np.abs(stored["video"].astype(int) - media["video"]).mean() < 6
    assert np.abs(stored["audio"] - media["audio"]).mean() < 0.01
    # What was indexed anew is filled anew, where the file is another one now.
    run_of(indexed, tmp_path / "three", np.arange(40))
    sizes = one.column("size").to_pylist()
    changed = rewritten(Location.of(tmp_path / "three"), size=[sizes[0] + 1, *sizes[1:]])
    fill(changed.publish(), place, config)
    assert "store · 20 clips in" in capsys.readouterr().out
    for clips, lengths in ((one, [20, 20]), (two, [20, 20, 8])):
        assert [len(shard.clips) for shard in shards_of(place, clips)] == lengths
    fill(one.publish(), place, config)
    assert capsys.readouterr().out == "", "the first run's shards are whole"


def test_a_flipped_clip_is_read_from_its_media_and_stored_again(
    indexed: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, config = Location.of(tmp_path / "store"), tiny()
    clips = run_of(indexed, tmp_path / "run", np.arange(8))
    published = clips.publish()
    store = fill(published, place, config)
    (shard,) = shards_of(place, clips)
    whole = (place / shard.tar).read_bytes()
    at = shard.clips["offset"][5].as_py() + shard.clips["bytes"][5].as_py() // 2
    (place / shard.tar).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    batch = decoded(replace(published, store=store), Order(8, 8), config.clips)
    media = decoded(published, Order(8, 8), config.clips)
    assert np.array_equal(batch["video"][5], media["video"][5])
    assert not np.array_equal(batch["video"][4], media["video"][4]), "from the store"
    (row,) = RejectedClip.loads(str(batch["rejects"]))
    assert (row.clip_index, row.modality, row.reason) == (5, "stored", "corrupt")
    assert shard.tar in row.detail
    capsys.readouterr()
    fill(published, place, config)
    assert "store · 8 clips in" in capsys.readouterr().out
    assert (place / shard.tar).read_bytes() == whole


@pytest.mark.parametrize("what", ["tar cut", "tar gone", "index cut", "settings cut"])
def test_a_cut_file_of_a_store_is_made_again(
    what: str, indexed: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, config = Location.of(tmp_path / "store"), tiny()
    published = run_of(indexed, tmp_path / "run", np.arange(30)).publish()
    fill(published, place, config)
    shard = shards_of(place, published.table)[1]
    names = {"tar": shard.tar, "index": f"{shard.name}.parquet", "settings": "store.json"}
    victim = place / names[what.split()[0]]
    whole = victim.read_bytes()
    capsys.readouterr()
    if what == "tar gone":
        victim.delete()
    else:
        victim.write_bytes(whole[: len(whole) // 2])
    fill(published, place, config)
    told = capsys.readouterr().out
    assert victim.read_bytes() == whole
    if what != "settings cut":
        assert f"{place} has damaged shards, made again: 1, such as {shard.name}" in told
        assert "store · 10 clips in" in told


def test_no_flipped_byte_of_an_index_goes_unnoticed(indexed: Location, tmp_path: Path) -> None:
    place, config = Location.of(tmp_path / "store"), tiny()
    clips = run_of(indexed, tmp_path / "run", np.arange(8))
    fill(clips.publish(), place, config)
    (shard,) = shards_of(place, clips)
    file = place / f"{shard.name}.parquet"
    whole, rng, noticed = file.read_bytes(), random.Random(0), 0
    for at in rng.sample(range(len(whole)), 300):
        flipped = bytes([whole[at] ^ 1 << rng.randrange(8)])
        file.write_bytes(whole[:at] + flipped + whole[at + 1 :])
        try:
            found = ShardIndex.read(place, shard.name, 8)
        except DamagedShard:
            noticed += 1
        else:
            assert (found.clips.to_pydict(), found.tar) == (shard.clips.to_pydict(), shard.tar)
    assert noticed > 100
    file.write_bytes(whole)
    (place / "0123456789abcdef.parquet").write_bytes(whole)
    with pytest.raises(DamagedShard):
        ShardIndex.read(place, "0123456789abcdef", 8)


def test_a_tar_of_another_content_has_another_name(indexed: Location, tmp_path: Path) -> None:
    """Two runs that fill a store at once, of which one loses a clip to its storage."""
    place, config = Location.of(tmp_path / "store"), tiny()
    clips = run_of(indexed, tmp_path / "run", np.arange(8))
    fill(clips.publish(), place, config)
    (index,) = shards_of(place, clips)
    uris = clips.column("uri").to_pylist()
    without = rewritten(Location.of(tmp_path / "run"), uri=[str(tmp_path / "gone.mp4"), *uris[1:]])
    (place / f"{index.name}.parquet").delete()
    fill(without.publish(), place, config)
    (other,) = shards_of(place, clips)
    assert (other.name, other.clips["bytes"][0].as_py()) == (index.name, 0)
    assert (place / index.tar).info().size == index.tar_bytes
    assert other.tar != index.tar
