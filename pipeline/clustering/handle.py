"""Start a clustering, or serve a finished one, from the driver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from pipeline.clustering.assign import load_faiss
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.feature_files import check_indices
from pipeline.clustering.index import ClusterIndex, ShardActors
from pipeline.clustering.kmeans import KMeansProgress
from pipeline.clustering.problem import ClusteringTask
from pipeline.clustering.shard import Shard
from pipeline.clustering.state import State
from pipeline.clustering.vectors import ShardSpec
from pipeline.config import ClusteringConfig, ResourcesConfig
from pipeline.errors import UserError
from pipeline.manifest import NAME, Damaged, Manifest
from pipeline.runtime.demands import how_many_fit
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import clustering, may_grow, on_this_node
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.watchdog import Watchdog

_LOOK_EVERY_S = 60.0
log = logging.getLogger(__name__)
_REBUILDS = 5  # of an index in a row that answers nothing in between

ShardActor = ray.remote(max_restarts=-1, max_task_retries=-1)(Shard)


class Clustering:
    """Handle on a finished clustering and on the actor that answers questions about it.

    The labels object belongs to the driver: it lives as long as this handle or a copy of its
    reference, whatever becomes of the actor. An actor that is gone for good is made anew from the
    files when it is asked.

    Attributes:
        out: the clustering's folder.
        labels: boxed reference; ``ray.get(labels[0])`` is int32[num_clips], read-only, one copy
            per node, -1 where a clip has no features.
        k: clusters.
        objective: sum of squared distances at each iteration.
        sizes: int64[k], clips per cluster.
    """

    def __init__(self, out: Location, num_clips: int, actor: Any = None):
        self.out, self._num_clips = out, num_clips
        self.actor = actor or self._served()
        self.labels = [self._asked("labels")]
        summary = self._ask("describe")
        self.k: int = summary["k"]
        self.objective: list[float] = summary["objective"]
        self.sizes = np.array(summary["sizes"], np.int64)

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid of raw features [m, d] (modalities side by side).

        Returns:
            labels int32[m] and Euclidean distances float32[m] in the space of the centroids.
        """
        return self._ask("assign", vectors)

    def nearest_clips(self, cluster: int, n: int) -> np.ndarray:
        """int64[<=n] clip indices of a cluster, nearest to its centroid first."""
        return self._ask("nearest_clips", cluster, n)

    def close(self) -> None:
        """End the actor; the files stay."""
        ray.kill(self.actor)

    def _served(self) -> Any:
        return ClusterIndex.options(**on_this_node()).remote(self.out, self._num_clips)

    def _ask(self, method: str, *arguments: Any) -> Any:
        with unwrapped():
            return ray.get(self._asked(method, *arguments))

    def _asked(self, method: str, *arguments: Any) -> ray.ObjectRef:
        """Reference to the answer, once it is there."""
        for _ in range(_REBUILDS):
            answer = getattr(self.actor, method).remote(*arguments)
            ray.wait([answer], fetch_local=False)
            try:
                ray.get(answer)
            except ray.exceptions.RayActorError:
                self.actor = self._served()
            except ray.exceptions.RayError:
                break
            else:
                break
        return answer


def serve_finished(out: Location, *, num_clips: int) -> Clustering:
    """Serve a finished clustering from its files, as after a restart of the driver.

    Raises:
        UserError: there is no finished clustering of ``num_clips`` clips in ``out``.
    """
    if Manifest.whole(out) is None:
        raise UserError(f"no finished clustering in {out}; run the clustering first")
    return Clustering(out, num_clips)


def cluster(
    task: ClusteringTask,
    *,
    resources: ResourcesConfig | None = None,
    on_progress: Callable[[KMeansProgress], None] | None = None,
) -> Clustering:
    """Cluster features and write labels and centroids to ``task.out``.

    A partial state of the same clustering in ``task.out`` is continued. A finished one is served.
    One that is damaged is done again.

    Args:
        task: what to cluster, how, and where to.
        resources: where shards may live.
        on_progress: called on the driver after every step.

    Raises:
        Damaged: a feature file is not as it was written.
        UserError: features that cannot be clustered (none, NaN, fewer than k), in one line.
    """
    load_faiss()  # says at once, and here, that it is missing
    out, config = task.out, task.config
    if _taken_up(task):
        State.clear(out)
        return serve_finished(out, num_clips=task.num_clips)
    if not task.features or not task.num_clips:
        raise UserError("nothing to cluster: no feature folder or no clip was given")
    check_indices(task.features, task.num_clips)
    resources = resources or ResourcesConfig()
    blocks = ClipBlocks(task.num_clips, config.block_size)
    limit = config.shards if may_grow(resources) else shard_limit(config, resources)
    specs = [
        shard_spec(task, blocks, first, last)
        for first, last in blocks.split(min(limit, blocks.count))
    ]
    shards: list[Any] = []
    held: ShardActors | ShardSpec = specs[0]
    if blocks.count > 1:  # with less, starting another process would take longest
        shard = ShardActor.options(**clustering(config, resources))
        shards = [shard.remote(spec) for spec in specs]
        held = ShardActors(shards)

    def start() -> Any:
        # The index lasts as long as somebody asks it about the clusters.
        return ClusterIndex.options(**on_this_node()).remote(out, task.num_clips, task, held)

    try:
        actor = run(start, on_progress, resources)
    finally:
        for shard in shards:
            ray.kill(shard)
    task.seal()
    return Clustering(out, task.num_clips, actor)


def _taken_up(task: ClusteringTask) -> bool:
    """Whether the folder holds the task's result; what is damaged or another's is removed."""
    out = task.out
    try:
        if task.finished():
            return True
        if task.adopted():
            say(f"{out / NAME} was gone, or not written yet; all that it seals is there")
            return True
    except Damaged as damaged:
        say(f"{damaged.place} is damaged: {damaged.what}; it is clustered again")
    for name in (NAME, "clustering.json"):
        (out / name).delete()
    try:
        State.load(out, task.key)
    except Damaged as damaged:
        say(f"{damaged.place} is damaged: {damaged.what}; clustering begins anew")
        State.clear(out)
    return False


def shard_spec(task: ClusteringTask, blocks: ClipBlocks, first: int, last: int) -> ShardSpec:
    """What the shard of the blocks [first, last) is built from."""
    config = task.config
    return ShardSpec(
        features=task.features,
        blocks=blocks,
        first=first,
        last=last,
        out=task.out,
        budget=config.max_memory_mb << 20,
        spherical=config.spherical,
        threads=max(1, int(config.cpus_per_shard)),
        device="cuda" if config.gpus_per_shard else "cpu",
    )


def run(
    start: Callable[[], Any],
    on_progress: Callable[[KMeansProgress], None] | None = None,
    limits: ResourcesConfig | None = None,
) -> Any:
    """Drive an index to its end, one step a call; return it.

    One that is gone for good is started again, and goes on from what it wrote.

    Raises:
        UserError: `limits` say how long it may stay at a step, and restarts did not help.
    """
    actor, stage, rebuilt, steps = start(), "", 0, 0
    verdicts: list[str] = []
    watchdog = Watchdog("k-means", limits or ResourcesConfig(), lambda: not stage, verdicts.append)
    while stage != "done":
        waiting = actor.advance.remote()
        while not ray.wait([waiting], timeout=_LOOK_EVERY_S)[0]:
            watchdog.saw(steps)
            if verdicts:
                ray.kill(actor)
                raise UserError(verdicts[0])
            if stage:
                log.info("still %s", stage)
            else:
                log.warning(
                    "k-means has not begun: its shards load features, or wait for nodes that have "
                    "clustering.cpus_per_shard CPUs free and the role memory"
                )
        try:
            with unwrapped():
                progress = ray.get(waiting)
        except ray.exceptions.RayActorError:
            rebuilt += 1
            if rebuilt > _REBUILDS:
                raise
            say("the cluster index died; another one goes on from its last step")
            actor = start()
            continue
        except BaseException:
            ray.kill(actor)
            raise
        stage, rebuilt, steps = progress.stage, 0, steps + 1
        if on_progress is not None:
            on_progress(progress)
    return actor


def shard_limit(config: ClusteringConfig, resources: ResourcesConfig) -> int:
    """As many shards as asked for, and as fit the nodes: the result is the same.

    Raises:
        UserError: not even one fits.
    """
    fits = how_many_fit(clustering(config, resources), config.shards)
    if fits < 1:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (max(n.get(name, 0) for n in nodes) for name in ("CPU", "GPU"))
        raise UserError(
            f"a shard asks for {config.cpus_per_shard} CPUs and {config.gpus_per_shard} GPUs, but "
            f"no node has more than {cpus:g} and {gpus:g}; lower "
            "clustering.cpus_per_shard or clustering.gpus_per_shard"
        )
    if fits < config.shards:
        log.warning("clustering.shards lowered from %d to %d to fit", config.shards, fits)
    return fits
