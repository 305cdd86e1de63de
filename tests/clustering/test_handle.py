"""The package as its callers use it, on Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from mixture_factory import files, mixture, run_here
from ray.actor import ActorHandle

from pipeline.clustering import (
    ClusteringTask,
    KMeansProgress,
    cluster,
    handle,
    read_labels,
    serve_finished,
)
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.index import ClusterIndex, Index
from pipeline.config import ClusteringConfig
from pipeline.errors import UserError
from pipeline.runtime.placement import on_this_node
from pipeline.storage import Location

pytestmark = pytest.mark.usefixtures("local_ray")
Writer = Callable[..., Location]
_EACH_ONCE = {  # in every run of the tests; all the others in `make chaos`
    ("centroids.npy", "flipped"),
    ("transform.npz", "gone"),
    ("clustering.json", "cut"),
    ("_DONE", "flipped"),
}


def clips_table(folder: Location, n: int) -> Location:
    for number, rows in enumerate(np.array_split(np.arange(n), 3)):
        table = pa.table({"clip_index": rows, "clip_id": [f"clip-{i}" for i in rows]})
        (folder / f"part-{number:05d}.parquet").write_table(table)
    return folder


@ray.remote(num_cpus=0)
def seen_by_a_worker(box: list[ray.ObjectRef]) -> tuple[int, bool]:
    labels = ray.get(box[0])
    return int(labels.sum()), bool(labels.flags.writeable)


def test_a_clustering_from_features_to_published_labels(
    write_features: Writer, tmp_path: Path
) -> None:
    index = np.delete(np.arange(900), np.arange(0, 900, 45))
    raw = mixture(len(index), 16, 8)
    features = [write_features(raw, index)]
    clips = clips_table(Location.of(tmp_path / "clips"), 900)
    out = Location.of(tmp_path / "out")
    config = ClusteringConfig(
        k=8, iterations=6, pca_dim=8, shards=2, cpus_per_shard=0.5, block_size=128
    )
    steps: list[KMeansProgress] = []
    task = ClusteringTask(tuple(features), 900, clips, config, 3, out)
    clustering = cluster(task, on_progress=steps.append)
    labels = ray.get(clustering.labels[0])
    assert labels.dtype == np.int32
    assert not labels.flags.writeable
    assert np.array_equal(np.flatnonzero(labels >= 0), index)
    assert np.array_equal(labels, read_labels(out, 900))
    assert ray.get(seen_by_a_worker.remote(clustering.labels)) == (int(labels.sum()), False)
    assert clustering.sizes.tolist() == np.bincount(labels[index], minlength=8).tolist()
    assert clustering.objective == [s.objective for s in steps if s.stage == "iterating"]
    assert [s.stage for s in steps][:2] == ["loading", "seeding"]
    assert steps[-1].stage == "done"

    table = pq.read_table(f"{out}/labels").to_pydict()
    assert table["clip_index"] == list(range(900))
    assert table["clip_id"][890:] == [f"clip-{i}" for i in range(890, 900)]
    assert table["label"] == labels.tolist()
    assert [i for i, d in enumerate(table["distance"]) if d is None] == list(range(0, 900, 45))

    found, distance = clustering.assign(raw.astype(np.float16))
    assert np.array_equal(found, labels[index])
    assert distance == pytest.approx(np.array(table["distance"])[index].astype(float))
    nearest = clustering.nearest_clips(5, 4)
    members = index[found == 5]
    assert np.array_equal(nearest, members[np.argsort(distance[found == 5], kind="stable")[:4]])

    # A finished folder is only published: nothing is computed and no file is touched.
    before = files(out)
    others = config.model_copy(update={"shards": 7})
    removed = (Location.of(tmp_path / "removed"),)
    again = cluster(dataclasses.replace(task, features=removed, config=others))
    served = serve_finished(out, num_clips=900)
    for other in (again, served):
        assert np.array_equal(ray.get(other.labels[0]), labels)
        assert other.objective == clustering.objective
        other.close()
    assert files(out) == before

    # The same without Ray, in another number of shards.
    here = Location.of(tmp_path / "here")
    run_here(
        features, 900, here, shards=3, clips=clips, seed=3, k=8, iterations=6, pca_dim=8,
        block_size=128, cpus_per_shard=2,
    )  # fmt: skip
    before.pop("/_DONE")
    assert files(here) == before

    clustering.close()


def test_the_labels_outlive_the_index_and_another_one_answers(
    write_features: Writer, tmp_path: Path
) -> None:
    out = Location.of(tmp_path / "out")
    config = ClusteringConfig(k=5, iterations=3, pca_dim=0)
    features = (write_features(mixture(300, 8, 5)),)
    clustering = cluster(ClusteringTask(features, 300, None, config, 0, out))
    labels = ray.get(clustering.labels[0]).copy()
    nearest = clustering.nearest_clips(2, 3)
    for _ in range(3):
        ray.kill(clustering.actor)
        assert ray.get(seen_by_a_worker.remote(clustering.labels))[0] == labels.sum()
        assert np.array_equal(clustering.nearest_clips(2, 3), nearest)
    assert "clip_id" not in pq.read_table(f"{out}/labels").column_names
    clustering.close()


@pytest.mark.parametrize("for_good", [False, True])
def test_an_index_that_is_killed_after_every_second_step(
    for_good: bool, write_features: Writer, tmp_path: Path
) -> None:
    """Loading, seeding, iterations, labelling; Ray restarts it, or the driver makes another."""
    config = ClusteringConfig(k=5, iterations=3, pca_dim=4)
    features = (write_features(mixture(300, 8, 5)),)
    calm, out = (Location.of(tmp_path / name) for name in ("calm", "out"))
    cluster(ClusteringTask(features, 300, None, config, 0, calm)).close()
    task, started, killed = ClusteringTask(features, 300, None, config, 0, out), [], []

    def start() -> ActorHandle:
        blocks = ClipBlocks(300, config.block_size)
        spec = handle.shard_spec(task, blocks, 0, 1)
        started.append(ClusterIndex.options(**on_this_node()).remote(out, 300, task, spec))
        return started[-1]

    def kill(step: KMeansProgress) -> None:
        if step.stage != "loading":  # what every life begins with
            killed.append(step.stage)
            ray.kill(started[-1], no_restart=for_good)
            with suppress(ray.exceptions.RayActorError):
                while for_good:  # a kill takes hold some time after the call
                    ray.get(started[-1].__ray_ready__.remote())

    handle.run(start, kill)
    assert killed[0] == "seeding"
    assert killed[-1] == "done"
    # Where Ray restarts it, a kill may take hold a step later, and the answer to a step that is
    # written be lost.
    assert len(killed) > 3
    assert len(started) == (len(killed) if for_good else 1)
    task.seal()
    assert files(out) == files(calm)
    for actor in started:
        ray.kill(actor)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(name, damage, marks=() if (name, damage) in _EACH_ONCE else pytest.mark.chaos)
        for name in ("centroids.npy", "transform.npz", "clustering.json", "_DONE")
        for damage in ("flipped", "cut", "gone")
    ],
)
def test_damaged_results_are_found_and_made_again(
    name: str,
    damage: str,
    write_features: Writer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ClusteringConfig(k=5, iterations=3, pca_dim=4)
    out = Location.of(tmp_path / "out")
    task = ClusteringTask((write_features(mixture(300, 8, 5)),), 300, None, config, 0, out)
    cluster(task).close()
    whole = files(out)
    spoil(out / name, damage)
    capsys.readouterr()
    cluster(task).close()
    assert files(out) == whole
    # Without the seal, files that are whole are sealed again.
    assert ("is damaged" in capsys.readouterr().out) == ((name, damage) != ("_DONE", "gone"))


def spoil(place: Location, damage: str) -> None:
    data = bytearray(place.read_bytes())
    if damage == "gone":
        place.delete()
        return
    data[len(data) // 2] ^= 16
    place.write_bytes(bytes(data if damage == "flipped" else data[: len(data) // 2]))


def test_errors_are_one_clear_line(write_features: Writer, tmp_path: Path) -> None:
    out = Location.of(tmp_path / "out")

    def attempt(features: Location, num_clips: int, **settings: object) -> None:
        config = ClusteringConfig(**({"k": 4, "pca_dim": 0} | settings))
        cluster(ClusteringTask((features,), num_clips, None, config, 0, out))

    features = write_features(mixture(30, 4, 2))
    with pytest.raises(UserError, match="no feature files"):
        attempt(Location.of(tmp_path / "nothing"), 30)
    with pytest.raises(UserError, match=r"clip indices 3 to 28, but there are 20 clips"):
        attempt(features, 20)
    with pytest.raises(UserError, match=r"k = 50 .* only 30 clips") as error:
        attempt(features, 40, k=50)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"asks for 999\.0 CPUs .*\.cpus_per_shard"):
        attempt(features, 30, cpus_per_shard=999.0)
    with pytest.raises(UserError, match="no finished clustering"):
        serve_finished(Location.of(tmp_path / "nothing"), num_clips=3)


def test_a_clips_table_of_another_length_is_rejected(
    write_features: Writer, tmp_path: Path
) -> None:
    clips = clips_table(Location.of(tmp_path / "clips"), 29)
    features, out = (write_features(mixture(30, 4, 2)),), Location.of(tmp_path / "out")
    config = ClusteringConfig(k=3, pca_dim=0)
    with pytest.raises(UserError, match="29 clips, but 30 were to be labelled"):
        cluster(ClusteringTask(features, 30, clips, config, 0, out))


def test_what_a_death_at_the_very_end_left_is_removed(
    write_features: Writer, tmp_path: Path
) -> None:
    features = (write_features(mixture(200, 8, 4)),)
    out = Location.of(tmp_path / "out")
    config = ClusteringConfig(k=4, iterations=3, pca_dim=0)
    task = ClusteringTask(features, 200, None, config, 0, out)
    cluster(task).close()
    finished = files(out)
    for name in ("state.npz", "state.npz.0123abcd.tmp"):
        (out / name).write_bytes(b"cut off here")
    cluster(task).close()
    assert files(out) == finished


def test_examples_of_every_cluster_and_what_lies_between_two(
    write_features: Writer, tmp_path: Path
) -> None:
    raw = mixture(600, 16, 8)
    out = Location.of(tmp_path / "out")
    config = ClusteringConfig(k=8, iterations=6, pca_dim=8, shards=1, cpus_per_shard=0.5)
    features = write_features(raw, np.arange(50, 650))
    cluster(ClusteringTask((features,), 700, None, config, 3, out)).close()
    labels, index = read_labels(out, 700), Index(out, 700)
    nearest, others = index.examples(40, seed=1)
    assert nearest.shape == others.shape == (8, 40)
    for number in range(8):
        assert nearest[number][nearest[number] >= 0].tolist() == (
            index.nearest_clips(number, 40).tolist()
        )
        drawn = others[number][others[number] >= 0]
        assert (labels[drawn] == number).all()
        assert not set(drawn) & set(nearest[number])
        size = int((labels == number).sum())
        assert len(drawn) == len(set(drawn.tolist())) == min(max(size - 40, 0), 40)
    assert np.array_equal(index.examples(40, seed=1)[1], others)
    assert not np.array_equal(index.examples(40, seed=2)[1], others)
    # A clip half way between two clusters' centres is between them; one at a centre is not.
    centres = np.stack([raw[labels[50:650] == number].mean(axis=0) for number in (0, 1)])
    middle = centres.mean(axis=0)
    margins = index.margins(np.stack([*centres, middle]).astype(np.float16))
    assert (margins >= 0).all()
    assert margins[2] < margins[:2].min()
