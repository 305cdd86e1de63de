"""Start a clustering, or publish a finished one, from the driver."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray

from pipeline.clustering import inputs as feature_files
from pipeline.clustering.blocks import Blocks
from pipeline.clustering.centroid_index import load_faiss
from pipeline.clustering.index import ClusterIndex, ShardActors
from pipeline.clustering.kmeans import Progress
from pipeline.clustering.shard import Shard
from pipeline.clustering.state import State
from pipeline.clustering.task import Task
from pipeline.clustering.vectors import ShardSpec
from pipeline.config import ClusteringConfig, ResourcesConfig
from pipeline.errors import UserError
from pipeline.runtime.placement import clustering, may_grow, on_driver_node
from pipeline.storage import Location

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


def publish(out: Location, *, num_clips: int) -> Clustering:
    """Serve a finished clustering from its files, as after a restart of the driver.

    Raises:
        UserError: there is no finished clustering of ``num_clips`` clips in ``out``.
    """
    if not (out / "clustering.json").exists():
        raise UserError(f"no finished clustering in {out}; run the clustering first")
    return Clustering(ClusterIndex.options(**on_driver_node()).remote(out, num_clips))


def cluster(
    features: Sequence[Location],
    *,
    num_clips: int,
    clips: Location | None,
    config: ClusteringConfig,
    seed: int,
    out: Location,
    on_progress: Callable[[Progress], None] | None = None,
    resources: ResourcesConfig | None = None,
) -> Clustering:
    """Cluster features and write labels and centroids to ``out``; goes on where a run was cut off.

    Args:
        features: one folder of Parquet parts (``clip_index``, ``features``) per modality; several
            are L2-normalised each and joined, and only clips present in all count.
        num_clips: N; clip indices lie in [0, N).
        clips: folder of the clips table, for ``clip_id`` in the label files.
        config: see `ClusteringConfig`.
        seed: of everything random.
        out: folder to write; partial state of the same clustering in it is continued, a finished
            one is only published.
        on_progress: called on the driver after every step.
        resources: where shards may live.

    Raises:
        UserError: features that cannot be clustered (none, NaN, fewer than k), in one line.
    """
    load_faiss()  # says at once, and here, that it is missing
    task = Task(tuple(features), num_clips, clips, config, seed, out)
    if task.finished():
        State.clear(out)
        return publish(out, num_clips=num_clips)
    if not features or not num_clips:
        raise UserError("nothing to cluster: no feature folder or no clip was given")
    feature_files.check_indices(features, num_clips)
    resources = resources or ResourcesConfig()
    blocks = Blocks(num_clips, config.block_size)
    limit = config.shards if may_grow(resources) else shard_limit(config)
    ranges = blocks.split(min(limit, blocks.count))
    specs = [
        ShardSpec(
            features=tuple(features),
            blocks=blocks,
            first=first,
            last=last,
            out=out,
            budget=config.max_memory_mb << 20,
            spherical=config.spherical,
            threads=max(1, int(config.cpus_per_shard)),
            device="cuda" if config.gpus_per_shard else "cpu",
            products=config.k * config.iterations * config.restarts,
        )
        for first, last in ranges
    ]
    (out / "clustering.json").delete()
    shards: list[Any] = []
    # It holds the pseudo-labels for as long as somebody learns from them.
    index = ClusterIndex.options(**on_driver_node())
    actor: Any
    if blocks.count == 1:  # so little that starting another process would take longest
        actor = index.remote(out, num_clips, task, None, specs[0])
    else:
        shard = ShardActor.options(**clustering(config, resources))
        shards = [shard.remote(spec) for spec in specs]
        actor = index.remote(out, num_clips, task, ShardActors(shards, [r[0] for r in ranges]))
    try:
        run(actor, on_progress)
    except BaseException:
        ray.kill(actor)
        raise
    finally:
        for shard in shards:
            ray.kill(shard)
    return Clustering(actor)


def run(actor: Any, on_progress: Callable[[Progress], None] | None = None) -> None:
    """Drive an index to its end, one step a call."""
    stage = ""
    while stage != "done":
        waiting = actor.advance.remote()
        while not ray.wait([waiting], timeout=60.0)[0]:
            if stage:
                log.info("still %s", stage)
            else:
                log.warning(
                    "k-means has not begun: its shards load features, or wait for nodes that have "
                    "clustering.cpus_per_shard CPUs free and the role memory"
                )
        progress = _get(waiting)
        stage = progress.stage
        if on_progress is not None:
            on_progress(progress)


def shard_limit(config: ClusteringConfig) -> int:
    """As many shards as asked for, and as fit the cluster: the result is the same.

    Raises:
        UserError: not even one fits.
    """
    total = ray.cluster_resources()
    fits = config.shards
    for name, each in (("CPU", config.cpus_per_shard), ("GPU", config.gpus_per_shard)):
        if each:
            fits = min(fits, int(total.get(name, 0.0) / each + 1e-6))
    if fits < 1:
        raise UserError(
            f"a shard asks for {config.cpus_per_shard} CPUs and {config.gpus_per_shard} GPUs, but "
            f"the cluster has {total.get('CPU', 0):g} and {total.get('GPU', 0):g}; lower "
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
