"""The index: the actor that runs a clustering, survives its own death, and answers questions."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray

from pipeline.clustering import features as feature_files
from pipeline.clustering.blocks import Ordinals, generator
from pipeline.clustering.labels import read_columns, write_labels
from pipeline.clustering.nearest import Centroids, distances
from pipeline.clustering.screens import SgemmScreen
from pipeline.clustering.seeding import seed_centroids
from pipeline.clustering.shard import Shard, ShardSpec, Survey
from pipeline.clustering.splitting import farthest, split
from pipeline.clustering.state import Attempt, State
from pipeline.clustering.transform import Moments, Transform, power_of_two
from pipeline.config import ClusteringConfig
from pipeline.errors import UserError
from pipeline.storage import Location

log = logging.getLogger(__name__)

_REPAIRS = 5  # extra iterations that may fill clusters that end up empty
_NOT_RESULTS = {
    "shards", "cpus_per_shard", "gpus_per_shard", "memory_budget_mb", "scratch",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is to be clustered, how, and where to."""

    features: tuple[Location, ...]
    num_clips: int
    clips: Location | None
    config: ClusteringConfig
    seed: int
    out: Location

    @property
    def key(self) -> str:
        """Tells results of these settings and features from others; resources do not count."""
        config = self.config.model_dump(mode="json", exclude=_NOT_RESULTS)
        files = feature_files.listing(self.features)
        text = json.dumps([config, self.num_clips, self.seed, files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Progress:
    """Where a clustering is.

    Attributes:
        stage: loading, seeding, iterating, labelling or done: what was finished last.
        restart: number of the attempt, from 0.
        iteration: finished iterations of this attempt.
        iterations: at most.
        objective: sum of squared distances of the last iteration; None before the first.
        empty: clusters that were empty in it and were split from others.
        seconds: that this step took.
    """

    stage: str
    restart: int = 0
    iteration: int = 0
    iterations: int = 0
    objective: float | None = None
    empty: int = 0
    seconds: float = 0.0


class ShardActors:
    """Shards that are actors. Arrays are put once and travel to every node once."""

    def __init__(self, actors: Sequence[Any], ranges: Sequence[tuple[int, int]]):
        self.actors = actors
        self.firsts = np.array([first for first, _ in ranges])

    def call(self, method: str, *arguments: Any) -> list[Any]:
        boxed = [ray.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
        return ray.get([getattr(actor, method).remote(*boxed) for actor in self.actors])

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

    def fetch(self, places: np.ndarray) -> np.ndarray:
        return self.shard.fetch(places)


class Index:
    """The state machine of a clustering; `ClusterIndex` is the same as an actor.

    ``advance`` does one step and writes its result down before it returns, so a call that is
    repeated after a death, or a new index over the same folder, goes on from there.
    """

    def __init__(
        self,
        out: Location,
        num_clips: int,
        task: Task | None = None,
        shards: Any = None,
        spec: ShardSpec | None = None,
    ):
        self.out = out
        self.num_clips = num_clips
        self.task = task
        self.shards = LocalShard(Shard(spec)) if spec is not None else shards
        self.state: State | None = None
        self.summary: dict[str, Any] | None = None
        self._energy = 0.0
        self._ordinals = Ordinals(np.zeros(0, np.int64))
        self._labels: np.ndarray | None = None
        self._order: np.ndarray | None = None
        self._transform: Transform | None = None
        self._centroids: np.ndarray | None = None

    # -- clustering --------------------------------------------------------------------------

    def advance(self) -> Progress:
        """One step: load, seed, iterate once, or label. At ``done`` it is a no-op."""
        began = time.perf_counter()
        progress = self._advance()
        return Progress(**(asdict(progress) | {"seconds": time.perf_counter() - began}))

    def _advance(self) -> Progress:
        assert self.task is not None
        config = self.task.config
        if self.summary is None:
            self.summary = finished(self.task)
        if self.summary is not None:
            return Progress("done", 0, len(self.summary["objective"]), config.iterations)
        if self.state is None:
            self._prepare()
            return Progress("loading", iterations=config.iterations)
        state = self.state
        if state.current is None and state.restart < config.restarts:
            centroids = seed_centroids(
                self.shards, self._ordinals, config.k, config.init, self.task.seed, state.restart
            )
            state.current = Attempt(self._normal(centroids))
            state.save(self.out)
            return Progress("seeding", state.restart, 0, config.iterations)
        if state.current is not None:
            empty = self._iterate(state)
            attempt = state.current or state.best
            assert attempt is not None
            iteration, objective = len(attempt.objective), attempt.objective[-1]
            return Progress(
                "iterating", state.restart, iteration, config.iterations, objective, empty
            )
        self._finish(state)
        return Progress("labelling", config.restarts - 1, config.iterations, config.iterations)

    def _prepare(self) -> None:
        """Survey the shards, fit the transform, take up the state of an earlier life."""
        task = self.task
        assert task is not None
        surveys: list[Survey] = self.shards.call("survey")
        problems = sorted({p for s in surveys for p in s.problems})
        if problems:
            raise UserError("\n".join(problems))
        counts = np.concatenate([s.counts for s in surveys])
        self._ordinals = Ordinals(counts)
        total = self._ordinals.total
        folders = ", ".join(str(f) for f in task.features)
        if total == 0:
            raise UserError(f"no clip has features in {folders}; nothing to cluster")
        if task.config.k > total:
            raise UserError(
                f"k = {task.config.k} clusters asked for, but only {total} clips have features "
                f"in {folders}; set clustering.k to at most {total}"
            )
        key = task.key
        state = State.load(self.out, key)
        if state is None:
            dims = tuple(feature_files.layout(f).dim for f in task.features)
            scale = power_of_two(max(s.highest for s in surveys))
            moments = None
            if task.config.pca_dim:
                parts: list[Moments] = self.shards.call("moments", scale)
                moments = sum(parts[1:], parts[0])
            Transform.fit(dims, scale, moments, task.config).save(self.out / "transform.npz")
            state = State(key)
            state.save(self.out)
        self._energy = sum(self.shards.call("energy"))
        self.state = state

    def _iterate(self, state: State) -> int:
        """One Lloyd iteration: assign, objective, means, split the empty."""
        task, attempt = self.task, state.current
        assert task is not None
        assert attempt is not None
        config = task.config
        old = attempt.centroids
        sums, counts = self._step(old)
        attempt.objective.append(self._objective(old, sums, counts))
        iteration = len(attempt.objective)
        random = generator(task.seed, "split", state.restart, iteration)
        attempt.centroids, empty = split(self._means(old, sums, counts), counts, random)
        if empty:
            attempt.centroids = self._normal(attempt.centroids)
        settled = np.array_equal(old, attempt.centroids)
        if iteration > 1 and config.tolerance:
            before, now = attempt.objective[-2:]
            settled |= before - now <= config.tolerance * before
        if settled or iteration >= config.iterations:
            if state.best is None or attempt.objective[-1] < state.best.objective[-1]:
                state.best = attempt
            state.current = None
            state.restart += 1
        state.save(self.out)
        return empty

    def _step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = self.shards.call("step", centroids)
        sums, counts = parts[0]
        for more_sums, more_counts in parts[1:]:
            sums, counts = sums + more_sums, counts + more_counts
        return sums, counts

    def _objective(self, centroids: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> float:
        """Sum of |x - c|^2 from the clusters' sums: no pass over the rows is needed."""
        c = centroids.astype(np.float64)
        cross = float((sums * c).sum())
        squares = float((np.square(c).sum(axis=1) * counts).sum())
        return max(0.0, self._energy - 2 * cross + squares)

    def _means(self, old: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        filled = counts > 0
        means = old.copy()
        means[filled] = (sums[filled] / counts[filled, None]).astype(np.float32)
        return self._normal(means)

    def _normal(self, centroids: np.ndarray) -> np.ndarray:
        assert self.task is not None
        if not self.task.config.spherical:
            return centroids
        return feature_files.unit(centroids).astype(np.float32)

    def _finish(self, state: State) -> None:
        """Final labels without empty clusters, files, then the mark that all is done."""
        task, best = self.task, state.best
        assert task is not None
        assert best is not None
        centroids = best.centroids
        for repair in range(_REPAIRS):
            sums, counts = self._step(centroids)
            if counts.all():
                break
            random = generator(task.seed, "repair", repair)
            centroids = self._normal(split(self._means(centroids, sums, counts), counts, random)[0])
        labels = np.full(self.num_clips, -1, np.int32)
        near = np.full(self.num_clips, np.nan, np.float32)
        for clips, some_labels, some_near in self.shards.call("assign", centroids):
            labels[clips], near[clips] = some_labels, some_near
        counts = np.bincount(labels[labels >= 0], minlength=task.config.k)
        if not counts.all():
            centroids = centroids.copy()
            empty = np.flatnonzero(counts == 0)
            rows = np.array(farthest(labels, near, counts))
            present = np.cumsum(labels >= 0) - 1
            vectors = self.shards.fetch(self._ordinals.locate(present[rows]))
            centroids[empty], labels[rows], near[rows] = vectors, empty, 0.0
            counts = np.bincount(labels[labels >= 0], minlength=task.config.k)
        write_labels(self.out, labels, near, task.clips)
        sink = io.BytesIO()
        np.save(sink, centroids)
        (self.out / "centroids.npy").write_bytes(sink.getvalue())
        self.summary = {
            "k": task.config.k,
            "objective": best.objective,
            "sizes": counts.tolist(),
            "num_clips": self.num_clips,
            "num_labelled": int(counts.sum()),
            "seed": task.seed,
            "config": task.config.model_dump(mode="json", exclude=_NOT_RESULTS),
            "key": state.key,
        }
        (self.out / "clustering.json").write_json(self.summary)
        (self.out / "state.npz").delete()
        self._labels, self._near = labels, near
        self.shards = None  # their memory is not needed any more

    # -- results -----------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What ``clustering.json`` says."""
        if self.summary is None:
            self.summary = (self.out / "clustering.json").read_json()
        return self.summary

    def labels(self) -> list[ray.ObjectRef]:
        """Boxed reference to int32[num_clips]; put once in the life of this actor."""
        if not hasattr(self, "_reference"):
            self._read()
            self._reference = ray.put(self._labels)
        return [self._reference]

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels int32[m] and distances float32[m] of raw features [m, d]."""
        if self._transform is None or self._centroids is None:
            self._transform = Transform.load(self.out / "transform.npz")
            self._centroids = np.load(io.BytesIO((self.out / "centroids.npy").read_bytes()))
        spherical = self.describe()["config"]["spherical"]
        x = self._transform(self._transform.joined(np.atleast_2d(vectors)))
        labels = SgemmScreen(Centroids(self._centroids, None, spherical))(x)
        return labels, np.sqrt(distances(x, self._centroids, labels)).astype(np.float32)

    def nearest_clips(self, cluster: int, n: int) -> np.ndarray:
        """int64[<=n] clip indices of a cluster, nearest to the centroid first."""
        self._read()
        assert self._labels is not None
        clips = np.flatnonzero(self._labels == cluster)
        return clips[np.argsort(self._near[clips], kind="stable")[:n]]

    def _read(self) -> None:
        if self._labels is None:
            self._labels, self._near = read_columns(self.out, self.num_clips, ["label", "distance"])


def finished(task: Task) -> dict[str, Any] | None:
    """The summary in the task's folder if it is of this very task."""
    place = task.out / "clustering.json"
    if not place.exists():
        return None
    summary = place.read_json()
    config = task.config.model_dump(mode="json", exclude=_NOT_RESULTS)
    same = (summary["config"], summary["seed"], summary["num_clips"]) == (
        config, task.seed, task.num_clips,
    )  # fmt: skip
    # Features may have been removed since; if they are there they must be the same.
    if same and (not any(feature_files.listing(task.features)) or summary["key"] == task.key):
        return summary
    log.warning("%s holds a clustering of other settings or features; it is done anew", task.out)
    return None


ClusterIndex = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Index)
