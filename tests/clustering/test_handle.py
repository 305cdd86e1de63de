"""The package as its callers use it, on Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from mixture_factory import files, mixture, run_here

from pipeline.clustering import (
    Clustering,
    ClusteringTask,
    KMeansProgress,
    cluster,
    read_labels,
    serve_finished,
)
from pipeline.config import ClusteringConfig
from pipeline.errors import UserError
from pipeline.storage import Location

pytestmark = pytest.mark.usefixtures("local_ray")
Writer = Callable[..., Location]


def clips_table(folder: Location, n: int) -> Location:
    for number, rows in enumerate(np.array_split(np.arange(n), 3)):
        table = pa.table({"clip_index": rows, "clip_id": [f"clip-{i}" for i in rows]})
        (folder / f"part-{number:05d}.parquet").write_table(table)
    return folder


def ask_until_it_ends(clustering: Clustering) -> None:
    while True:
        clustering.nearest_clips(0, 1)


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

    table = (out / "labels").read_table().to_pydict()
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
    assert files(here) == before

    clustering.close()
    with pytest.raises(ray.exceptions.RayActorError):
        ask_until_it_ends(clustering)


def test_labels_can_be_had_again_after_the_index_died(
    write_features: Writer, tmp_path: Path
) -> None:
    out = Location.of(tmp_path / "out")
    config = ClusteringConfig(k=5, iterations=3, pca_dim=0)
    features = (write_features(mixture(300, 8, 5)),)
    clustering = cluster(ClusteringTask(features, 300, None, config, 0, out))
    labels = ray.get(clustering.labels[0]).copy()
    ray.kill(clustering.actor, no_restart=False)
    assert np.array_equal(ray.get(clustering.republish()[0]), labels)
    assert "clip_id" not in (out / "labels").read_table().column_names
    clustering.close()


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
