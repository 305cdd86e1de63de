"""Lloyd's algorithm over shards, one step a call, each step written down before the next."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from pipeline.clustering.balance import move_overflow, price, sinkhorn_bias
from pipeline.clustering.blocks import Ordinals, generator
from pipeline.clustering.feature_files import layout
from pipeline.clustering.inputs import unit
from pipeline.clustering.labels import write_labels
from pipeline.clustering.problem import ClusteringTask
from pipeline.clustering.seeding import Shards, fetch, seed_centroids
from pipeline.clustering.splitting import farthest, split
from pipeline.clustering.state import Attempt, State
from pipeline.clustering.transform import Moments, Transform, power_of_two
from pipeline.errors import UserError
from pipeline.manifest import Entry, digest_of

_REPAIRS = 5  # extra iterations that may fill clusters that end up empty


@dataclass(frozen=True)
class KMeansProgress:
    """Where a clustering is."""

    stage: str  # loading, seeding, iterating, labelling or done: what was finished last
    restart: int = 0  # number of the attempt, from 0
    iteration: int = 0  # finished iterations of this attempt
    iterations: int = 0  # at most
    objective: float | None = None  # sum of squared distances, after an iteration
    empty: int = 0  # clusters that were empty in it and were split from others
    seconds: float = 0.0  # that this step took


class KMeans:
    """The state machine of one clustering.

    A new object over the same task and folder goes on where an earlier one was cut off.

    Attributes:
        result: the labels int32[N] and distances float32[N] once all is done.
    """

    def __init__(self, task: ClusteringTask, shards: Shards):
        self.task = task
        self.config = task.config
        self.shards = shards
        self.result: tuple[np.ndarray, np.ndarray] | None = None
        self._state: State | None = None
        self._energy = 0.0
        self._ordinals = Ordinals(np.zeros(0, np.int64))

    def advance(self) -> KMeansProgress:
        """One step: load, seed, iterate once, or label."""
        config, state = self.config, self._state
        if state is None:
            self._prepare()
            return KMeansProgress("loading", iterations=config.iterations)
        if state.current is None and state.restart < config.restarts:
            random = (config.init, self.task.seed, state.restart)
            seeds = seed_centroids(self.shards, self._ordinals, config.k, *random)
            state.current = Attempt(self._normal(seeds), np.zeros(config.k))
            state.save(self.task.out)
            return KMeansProgress("seeding", state.restart, 0, config.iterations)
        if state.current is not None:
            return self._iterate(state, state.current)
        assert state.best is not None
        self._finish(state, state.best)
        done = len(state.best.objective)
        return KMeansProgress("labelling", config.restarts - 1, done, config.iterations)

    def _prepare(self) -> None:
        """Survey the shards, fit the transform, take up the state of an earlier life."""
        task, config = self.task, self.config
        counts, highest, problems = zip(*self.shards.call("survey"))
        if any(problems):
            raise UserError("\n".join(sorted({p for some in problems for p in some})))
        self._ordinals = Ordinals(np.concatenate(counts))
        total = self._ordinals.total
        folders = ", ".join(str(f) for f in task.features)
        if total == 0:
            raise UserError(f"no clip has features in {folders}; nothing to cluster")
        if config.k > total:
            raise UserError(
                f"k = {config.k} clusters asked for, but only {total} clips have features "
                f"in {folders}; set clustering.k to at most {total}"
            )
        key = task.key
        state = State.load(task.out, key)
        if state is None:
            dims = tuple(layout(folder)[0] for folder in task.features)
            scale = power_of_two(max(highest))
            moments: Moments | None = None
            if config.pca_dim:
                first, *others = self.shards.call("moments", scale)
                moments = sum(others, first)
            transform = Transform.fit(dims, scale, moments, config).dumps()
            (task.out / "transform.npz").write_bytes(transform)
            state = State(key, digest_of(transform))
            state.save(task.out)
        self._energy = sum(self.shards.call("energy"))
        self._state = state

    def _iterate(self, state: State, attempt: Attempt) -> KMeansProgress:
        """One Lloyd iteration: assign, objective, means, split the empty, balance."""
        config, old, old_bias = self.config, attempt.centroids, attempt.bias
        sums, counts = self.shards.total("step", old, old_bias)
        objective, restart = self._objective(old, sums, counts), state.restart
        attempt.objective.append(objective)
        iteration = len(attempt.objective)
        random = generator(self.task.seed, "split", restart, iteration)
        attempt.centroids, empty = self._moved(old, sums, counts, random)
        attempt.bias = self._balanced(attempt, counts)
        settled = np.array_equal(old, attempt.centroids) and np.array_equal(old_bias, attempt.bias)
        if settled or iteration >= config.iterations:
            if state.best is None or objective < state.best.objective[-1]:
                state.best = attempt
            state.current, state.restart = None, restart + 1
        state.save(self.task.out)
        return KMeansProgress("iterating", restart, iteration, config.iterations, objective, empty)

    def _balanced(self, attempt: Attempt, counts: np.ndarray) -> np.ndarray:
        """The bias of the next iteration."""
        config, total = self.config, self._ordinals.total
        if config.balance == "sinkhorn":

            def sizes(bias: np.ndarray) -> np.ndarray:
                return sum(self.shards.call("soft_sizes", attempt.centroids, bias))

            return sinkhorn_bias(attempt.bias, sizes, total)
        if config.balance == "capped":
            return price(attempt.bias, counts, self._cap, attempt.objective[-1] / total)
        return attempt.bias

    @property
    def _cap(self) -> int:
        return math.ceil(self.config.cap * self._ordinals.total / self.config.k)

    def _objective(self, centroids: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> float:
        """Sum of |x - c|^2 from the clusters' sums: no pass over the rows is needed."""
        c = centroids.astype(np.float64)
        cross = float((sums * c).sum())
        squares = float((np.square(c).sum(axis=1) * counts).sum())
        return max(0.0, self._energy - 2 * cross + squares)

    def _moved(
        self, old: np.ndarray, sums: np.ndarray, counts: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Means of the clusters, the empty ones split from others, and how many were empty."""
        filled, means = counts > 0, old.copy()
        means[filled] = sums[filled] / counts[filled, None]
        means, empty = split(self._normal(means), counts, random)
        return self._normal(means), empty

    def _normal(self, centroids: np.ndarray) -> np.ndarray:
        if not self.config.spherical:
            return centroids
        return unit(centroids).astype(np.float32)

    def _finish(self, state: State, best: Attempt) -> None:
        """Final labels without empty clusters, files, then the mark that all is done."""
        task, k = self.task, self.config.k
        centroids, bias = best.centroids, best.bias
        for repair in range(_REPAIRS):
            sums, counts = self.shards.total("step", centroids, bias)
            if counts.all():
                break
            random = generator(task.seed, "repair", repair)
            centroids, _ = self._moved(centroids, sums, counts, random)
        labels = np.full(task.num_clips, -1, np.int32)
        near = np.full(task.num_clips, np.nan, np.float32)
        for clips, some_labels, some_near in self.shards.call("assign", centroids, bias):
            labels[clips], near[clips] = some_labels, some_near
        if self.config.balance == "capped":

            def choose(clips: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                parts = self.shards.call("assign_some", clips, centroids[clusters], bias[clusters])
                chosen, distances = map(np.concatenate, zip(*parts))
                return clusters[chosen].astype(np.int32), distances

            move_overflow(labels, near, self._cap, k, choose)
        centroids = self._fill_empty(labels, near, centroids)
        sizes = np.bincount(labels[labels >= 0], minlength=k)
        files = write_labels(task.out, labels, near, task.clips)
        sink = io.BytesIO()
        np.save(sink, centroids)
        (task.out / "centroids.npy").write_bytes(sink.getvalue())
        files["centroids.npy"] = Entry.of(sink.getvalue())
        files["transform.npz"] = Entry.of((task.out / "transform.npz").read_bytes())
        summary = {
            "k": k,
            "objective": best.objective,
            "sizes": sizes.tolist(),
            "bias": best.bias.tolist() if self.config.balance != "none" else None,
            "final_objective": float(np.nansum(np.square(near.astype(np.float64)))),
            "num_clips": task.num_clips,
            "num_labelled": int(sizes.sum()),
            "seed": task.seed,
            "config": task.config.outcome(),
            "key": state.key,
            "files": {name: [entry.size, entry.digest] for name, entry in files.items()},
        }
        (task.out / "clustering.json").write_json(summary)
        State.clear(task.out)
        self.result = labels, near

    def _fill_empty(
        self, labels: np.ndarray, near: np.ndarray, centroids: np.ndarray
    ) -> np.ndarray:
        """Give each empty cluster the farthest row as its own; needed only among duplicates."""
        counts = np.bincount(labels[labels >= 0], minlength=self.config.k)
        empty = np.flatnonzero(counts == 0)
        if not len(empty):
            return centroids
        rows = farthest(labels, near, len(empty))
        ordinals = np.cumsum(labels >= 0)[rows] - 1
        centroids = centroids.copy()
        centroids[empty] = fetch(self.shards, self._ordinals.locate(ordinals))
        labels[rows], near[rows] = empty, 0.0
        return self._normal(centroids)
