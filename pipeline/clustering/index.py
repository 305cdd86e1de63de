"""The index: the actor that runs a clustering, survives its own death, and answers questions."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from pipeline.clustering.assign import CentroidIndex, distances, prepare_process
from pipeline.clustering.kmeans import KMeans, KMeansProgress
from pipeline.clustering.labels import read_columns
from pipeline.clustering.seeding import Shards
from pipeline.clustering.shard import Shard
from pipeline.clustering.state import State
from pipeline.clustering.task import ClusteringTask
from pipeline.clustering.transform import Transform
from pipeline.clustering.vectors import ShardSpec
from pipeline.storage import Location

_FAN_IN = 8  # parts added by one task; up to so many shards the index adds them itself


def added(*parts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Sums of the parts, item by item; exact (blocks.py), so any tree gives the same bits."""
    total = parts[0]
    for part in parts[1:]:
        total = tuple(a + b for a, b in zip(total, part))
    return total


_added_there = ray.remote(num_cpus=0, max_retries=-1)(added)


class ShardActors:
    """Shards that are actors. Arrays are put once a call and travel to every node once.

    Args:
        actors: in order of blocks.
        firsts: the first block of each.
    """

    def __init__(self, actors: Sequence[Any], firsts: Sequence[int]):
        self.actors = actors
        self.firsts = np.array(firsts)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        boxed = [ray.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
        return ray.get([getattr(actor, method).remote(*boxed) for actor in self.actors])

    def total(self, method: str, *arguments: Any) -> tuple[np.ndarray, ...]:
        boxed = [ray.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
        parts = [getattr(actor, method).remote(*boxed) for actor in self.actors]
        while len(parts) > _FAN_IN:
            tree = [parts[i : i + _FAN_IN] for i in range(0, len(parts), _FAN_IN)]
            parts = [_added_there.remote(*some) for some in tree]
        return added(*ray.get(parts))

    def at(self, block: int, method: str, *arguments: Any) -> Any:
        owner = int(np.searchsorted(self.firsts, block, side="right")) - 1
        return ray.get(getattr(self.actors[owner], method).remote(*arguments))

    def fetch(self, places: np.ndarray) -> np.ndarray:
        owner = np.searchsorted(self.firsts, places[:, 0], side="right") - 1
        wanted = [(int(o), np.flatnonzero(owner == o)) for o in np.unique(owner)]
        rows = ray.get([self.actors[o].fetch.remote(places[at]) for o, at in wanted])
        out = np.empty((len(places), rows[0].shape[1]), np.float16)
        for (_, at), some in zip(wanted, rows):
            out[at] = some
        return out


class LocalShard:
    """One shard in this very process: small clusterings start no further actor."""

    def __init__(self, shard: Shard):
        self.shard = shard

    def call(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(self.shard, method)(*arguments)]

    def total(self, method: str, *arguments: Any) -> tuple[np.ndarray, ...]:
        return getattr(self.shard, method)(*arguments)

    def at(self, block: int, method: str, *arguments: Any) -> Any:
        return getattr(self.shard, method)(*arguments)

    def fetch(self, places: np.ndarray) -> np.ndarray:
        return self.shard.fetch(places)


class Index:
    """Runs a task, or serves a finished folder; `ClusterIndex` is the same as an actor.

    Args:
        out: folder of the clustering.
        num_clips: N.
        task: what to run; None to serve what is finished.
        shards: actors that hold the vectors; None with ``spec``: one shard in this process.
        spec: of that shard.
    """

    def __init__(
        self,
        out: Location,
        num_clips: int,
        task: ClusteringTask | None = None,
        shards: Shards | None = None,
        spec: ShardSpec | None = None,
    ):
        self.out = out
        self.num_clips = num_clips
        self.task = task
        self._kmeans: KMeans | None = None
        if task is not None and not (out / "clustering.json").exists():
            held = LocalShard(Shard(spec)) if spec is not None else shards
            assert held is not None
            self._kmeans = KMeans(task, held)
        self._result: tuple[np.ndarray, np.ndarray] | None = None
        self._reference: ray.ObjectRef | None = None
        self._served: tuple[Transform, np.ndarray, CentroidIndex, int] | None = None

    def advance(self) -> KMeansProgress:
        """One step of the task; a repeated call after a death goes on from what is written."""
        if self._kmeans is None:
            State.clear(self.out)  # an earlier life may have ended just before it did this
            return KMeansProgress("done")
        began = time.perf_counter()
        progress = self._kmeans.advance()
        if self._kmeans.result is not None:
            self._result = self._kmeans.result
            self._kmeans = None  # and with it a local shard's vectors
        return dataclasses.replace(progress, seconds=time.perf_counter() - began)

    def describe(self) -> dict[str, Any]:
        """What ``clustering.json`` says."""
        return (self.out / "clustering.json").read_json()

    def labels(self) -> list[ray.ObjectRef]:
        """Boxed reference to int32[num_clips]; put once in the life of this actor."""
        if self._reference is None:
            self._reference = ray.put(self._read()[0])
        return [self._reference]

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels int32[m] and distances float32[m] of raw features [m, d], a block at a time."""
        if self._served is None:
            prepare_process()
            centroids = np.load(io.BytesIO((self.out / "centroids.npy").read_bytes()))
            summary = self.describe()
            bias = None if summary["bias"] is None else np.array(summary["bias"])
            index = CentroidIndex(centroids, bias, summary["config"]["spherical"])
            transform = Transform.load(self.out / "transform.npz")
            self._served = transform, centroids, index, summary["config"]["block_size"]
        transform, centroids, index, rows = self._served
        vectors = np.atleast_2d(vectors)
        labels, near = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for at in range(0, len(vectors), rows):
            x = transform(transform.joined(vectors[at : at + rows]))
            labels.append(index.nearest(index.rows(x)))
            near.append(distances(x, centroids, labels[-1]))
        return np.concatenate(labels), np.concatenate(near)

    def nearest_clips(self, cluster: int, n: int) -> np.ndarray:
        """int64[<=n] clip indices of a cluster, nearest to the centroid first."""
        labels, near = self._read()
        clips = np.flatnonzero(labels == cluster)
        return clips[np.argsort(near[clips], kind="stable")[:n]]

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        if self._result is None:
            names = ["label", "distance"]
            labels, near = read_columns(self.out, self.num_clips, names)
            self._result = labels, near
        return self._result


ClusterIndex = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Index)
