"""The index: the actor that runs a clustering, survives its own death, and answers questions."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import ray

from pipeline.clustering.assign import CentroidIndex, distances, prepare_process
from pipeline.clustering.kmeans import KMeans, KMeansProgress
from pipeline.clustering.labels import read_columns
from pipeline.clustering.problem import ClusteringTask
from pipeline.clustering.seeding import Shards
from pipeline.clustering.shard import Shard
from pipeline.clustering.state import State
from pipeline.clustering.transform import Transform
from pipeline.clustering.vectors import ShardSpec
from pipeline.manifest import Manifest
from pipeline.storage import Location

_FAN_IN = 8  # parts added by one task; up to so many shards the index adds them itself


def added(*parts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Sums of the parts, item by item; exact (blocks.py), so any tree gives the same bits."""
    return tuple(sum(items[1:], items[0]) for items in zip(*parts))


_added_there = ray.remote(num_cpus=0, max_retries=-1)(added)


class ShardActors:
    """Shards that are actors, in order of blocks. Arrays travel to every node once a call."""

    def __init__(self, actors: Sequence[Any]):
        self.actors = actors

    def call(self, method: str, *arguments: Any) -> list[Any]:
        return ray.get(self._asked(method, *arguments))

    def total(self, method: str, *arguments: Any) -> tuple[np.ndarray, ...]:
        parts = self._asked(method, *arguments)
        while len(parts) > _FAN_IN:
            tree = [parts[i : i + _FAN_IN] for i in range(0, len(parts), _FAN_IN)]
            parts = [_added_there.remote(*some) for some in tree]
        return added(*ray.get(parts))

    def _asked(self, method: str, *arguments: Any) -> list[ray.ObjectRef]:
        boxed = [ray.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
        return [getattr(actor, method).remote(*boxed) for actor in self.actors]


class LocalShard:
    """One shard in this very process: small clusterings start no further actor."""

    def __init__(self, shard: Shard):
        self.shard = shard

    def call(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(self.shard, method)(*arguments)]

    def total(self, method: str, *arguments: Any) -> tuple[np.ndarray, ...]:
        return getattr(self.shard, method)(*arguments)


class Index:
    """Runs a task, or serves a finished folder; `ClusterIndex` is the same as an actor.

    Args:
        out: folder of the clustering.
        num_clips: N.
        task: what to run; None to serve what is finished.
        shards: actors that hold the vectors, or the spec of one shard in this process.
    """

    def __init__(
        self,
        out: Location,
        num_clips: int,
        task: ClusteringTask | None = None,
        shards: Shards | ShardSpec | None = None,
    ):
        self.out = out
        self.num_clips = num_clips
        self._kmeans: KMeans | None = None
        if task is not None and shards is not None and not (out / "clustering.json").exists():
            if isinstance(shards, ShardSpec):
                shards = LocalShard(Shard(shards))
            self._kmeans = KMeans(task, shards)

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
        return json.loads(self._load("clustering.json"))

    def labels(self) -> np.ndarray:
        """int32[num_clips]: the caller owns the object, so that it outlives this actor."""
        return self._result[0]

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels int32[m] and distances float32[m] of raw features [m, d], a block at a time."""
        transform, centroids, index, rows = self._search
        vectors = np.atleast_2d(vectors)
        labels, near = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for at in range(0, len(vectors), rows):
            x = transform(transform.joined(vectors[at : at + rows]))
            labels.append(index.nearest(index.rows(x)))
            near.append(distances(x, centroids, labels[-1]))
        return np.concatenate(labels), np.concatenate(near)

    def nearest_clips(self, cluster: int, n: int) -> np.ndarray:
        """int64[<=n] clip indices of a cluster, nearest to the centroid first."""
        labels, near = self._result
        clips = np.flatnonzero(labels == cluster)
        return clips[np.argsort(near[clips], kind="stable")[:n]]

    def examples(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Clips of every cluster, int64[k, n] each, -1 where it has fewer.

        Returns:
            Those nearest to its centroid, nearest first; and others of it at random.
        """
        labels, near = self._result
        # Stable, and clips without features (label -1, distance NaN) come first.
        order = np.lexsort((near, labels))
        k = len(self.describe()["sizes"])
        bounds = np.searchsorted(labels, np.arange(k + 1), sorter=order)
        nearest, others = (np.full((k, n), -1, np.int64) for _ in range(2))
        random = np.random.default_rng(seed)
        for cluster, (start, stop) in enumerate(pairwise(bounds.tolist())):
            first = order[start : min(start + n, stop)]
            nearest[cluster, : len(first)] = first
            left = stop - start - len(first)
            drawn = random.choice(left, min(left, n), replace=False) + start + len(first)
            others[cluster, : len(drawn)] = order[drawn]
        return nearest, others

    def margins(self, vectors: np.ndarray) -> np.ndarray:
        """float32[m]: how much farther the second nearest centroid is than the nearest.

        In squared distances, for raw features [m, d] as `assign` takes them; with balance, of the
        biased distances that decide.
        """
        transform, _, index, rows = self._search
        found = [np.zeros(0, np.float32)]
        for at in range(0, len(vectors), rows):
            x = transform(transform.joined(vectors[at : at + rows]))
            found.append(index.margin(index.rows(x)))
        return np.concatenate(found)

    def _load(self, name: str) -> bytes:
        manifest = Manifest.read(self.out)
        return manifest.load(name) if manifest else (self.out / name).read_bytes()

    @cached_property
    def _result(self) -> tuple[np.ndarray, ...]:
        return tuple(read_columns(self.out, self.num_clips, ["label", "distance"]))

    @cached_property
    def _search(self) -> tuple[Transform, np.ndarray, CentroidIndex, int]:
        """Transform, centroids, the index over them, and rows in a block."""
        prepare_process()
        summary, transform = self.describe(), Transform.loads(self._load("transform.npz"))
        centroids = np.load(io.BytesIO(self._load("centroids.npy")), allow_pickle=False)
        bias = None if summary["bias"] is None else np.array(summary["bias"])
        index = CentroidIndex(centroids, bias, summary["config"]["spherical"])
        return transform, centroids, index, summary["config"]["block_size"]


ClusterIndex = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Index)
