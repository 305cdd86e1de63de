"""Start a clustering, or serve a finished one, from the driver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from pipeline.clustering import inputs as feature_files
from pipeline.clustering.assign import load_faiss
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.index import ClusterIndex, ShardActors
from pipeline.clustering.kmeans import KMeansProgress
from pipeline.clustering.problem import ClusteringTask
from pipeline.clustering.shard import Shard
from pipeline.clustering.state import State
from pipeline.clustering.vectors import ShardSpec
from pipeline.config import ClusteringConfig, ResourcesConfig
from pipeline.errors import UserError
from pipeline.runtime.demands import how_many_fit
from pipeline.runtime.placement import clustering, may_grow, on_driver_node
from pipeline.storage import Location
from pipeline.telemetry.watchdog import Watchdog

_LOOK_EVERY_S = 60.0
log = logging.getLogger(__name__)

ShardActor = ray.remote(max_restarts=-1, max_task_retries=-1)(Shard)


class Clustering:
    """Handle on a finished clustering and on the actor that holds its labels.

    The labels object lives as long as the actor: keep the handle until nobody reads it, then
    `close`. A reader that meets a lost object (the actor died and was restarted) asks the driver
    for `republish`.

    Attributes:
        actor: the ClusterIndex.
        labels: boxed reference; ``ray.get(labels[0])`` is int32[num_clips], read-only, one copy
            per node, -1 where a clip has no features.
        k: clusters.
        objective: sum of squared distances at each iteration.
        sizes: int64[k], clips per cluster.
    """

    def __init__(self, actor: Any):
        self.actor = actor
        summary, self.labels = _get([actor.describe.remote(), actor.labels.remote()])
        self.k: int = summary["k"]
        self.objective: list[float] = summary["objective"]
        self.sizes = np.array(summary["sizes"], np.int64)

    def republish(self) -> list[ray.ObjectRef]:
        """A fresh reference to the labels after the actor's death; also kept in ``labels``."""
        self.labels = _get(self.actor.labels.remote())
        return self.labels

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centroid of raw features [m, d] (modalities side by side).

        Returns:
            labels int32[m] and Euclidean distances float32[m] in the space of the centroids.
        """
        return _get(self.actor.assign.remote(vectors))

    def nearest_clips(self, cluster: int, n: int) -> np.ndarray:
        """int64[<=n] clip indices of a cluster, nearest to its centroid first."""
        return _get(self.actor.nearest_clips.remote(cluster, n))

    def close(self) -> None:
        """End the actor; the labels object goes with it, the files stay."""
        ray.kill(self.actor)


def serve_finished(out: Location, *, num_clips: int) -> Clustering:
    """Serve a finished clustering from its files, as after a restart of the driver.

    Raises:
        UserError: there is no finished clustering of ``num_clips`` clips in ``out``.
    """
    if not (out / "clustering.json").exists():
        raise UserError(f"no finished clustering in {out}; run the clustering first")
    return Clustering(ClusterIndex.options(**on_driver_node()).remote(out, num_clips))


def cluster(
    task: ClusteringTask,
    *,
    resources: ResourcesConfig | None = None,
    on_progress: Callable[[KMeansProgress], None] | None = None,
) -> Clustering:
    """Cluster features and write labels and centroids to ``task.out``.

    A partial state of the same clustering in ``task.out`` is continued. A finished one is served.

    Args:
        task: what to cluster, how, and where to.
        resources: where shards may live.
        on_progress: called on the driver after every step.

    Raises:
        UserError: features that cannot be clustered (none, NaN, fewer than k), in one line.
    """
    load_faiss()  # says at once, and here, that it is missing
    out, config = task.out, task.config
    if task.finished():
        State.clear(out)
        return serve_finished(out, num_clips=task.num_clips)
    if not task.features or not task.num_clips:
        raise UserError("nothing to cluster: no feature folder or no clip was given")
    feature_files.check_indices(task.features, task.num_clips)
    resources = resources or ResourcesConfig()
    blocks = ClipBlocks(task.num_clips, config.block_size)
    limit = config.shards if may_grow(resources) else shard_limit(config, resources)
    specs = [
        shard_spec(task, blocks, first, last)
        for first, last in blocks.split(min(limit, blocks.count))
    ]
    (out / "clustering.json").delete()
    shards: list[Any] = []
    held: ShardActors | ShardSpec = specs[0]
    if blocks.count > 1:  # with less, starting another process would take longest
        shard = ShardActor.options(**clustering(config, resources))
        shards = [shard.remote(spec) for spec in specs]
        held = ShardActors(shards)
    # The index holds the pseudo-labels for as long as somebody learns from them.
    actor: Any = ClusterIndex.options(**on_driver_node()).remote(out, task.num_clips, task, held)
    try:
        run(actor, on_progress, resources)
    except BaseException:
        ray.kill(actor)
        raise
    finally:
        for shard in shards:
            ray.kill(shard)
    return Clustering(actor)


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
    actor: Any,
    on_progress: Callable[[KMeansProgress], None] | None = None,
    limits: ResourcesConfig | None = None,
) -> None:
    """Drive an index to its end, one step a call.

    Raises:
        UserError: `limits` say how long it may stay at a step, and restarts did not help.
    """
    stage, verdicts, steps = "", list[str](), 0
    watchdog = Watchdog("k-means", limits or ResourcesConfig(), lambda: not stage, verdicts.append)
    while stage != "done":
        waiting = actor.advance.remote()
        while not ray.wait([waiting], timeout=_LOOK_EVERY_S)[0]:
            watchdog.saw(steps)
            if verdicts:
                raise UserError(verdicts[0])
            if stage:
                log.info("still %s", stage)
            else:
                log.warning(
                    "k-means has not begun: its shards load features, or wait for nodes that have "
                    "clustering.cpus_per_shard CPUs free and the role memory"
                )
        progress = _get(waiting)
        stage, steps = progress.stage, steps + 1
        if on_progress is not None:
            on_progress(progress)


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


def _get(references: Any) -> Any:
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
