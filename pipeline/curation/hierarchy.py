"""Clusters of clusters: k-means over the centroids, and over those again.

The idea of Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning": centroids of
k-means lie where data are dense. Clustered again, each level's centroids are spread more evenly
over what there is.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import ray

from pipeline.clustering import ClusteringTask, cluster
from pipeline.clustering.vector_files import as_features
from pipeline.config import ClusteringConfig, Config
from pipeline.storage import Location

_FEW = 16  # clusters that need no further level
_ITERATIONS, _RESTARTS = 50, 5  # of few points


def default_levels(clusters: int) -> tuple[int, ...]:
    """Square roots, for as long as there are many: 1024 → 32, 6."""
    levels = []
    while clusters >= _FEW:
        clusters = round(math.sqrt(clusters))
        levels.append(clusters)
    return tuple(levels)


def parents(
    centroids: np.ndarray, levels: Sequence[int], config: Config, seed: int, scratch: Location
) -> list[np.ndarray]:
    """For each level, the cluster of it that each cluster of the level below belongs to.

    Args:
        centroids: float32 [k, d]; levels: clusters of each level, ever fewer.
        config: of the run; seed: of the k-means.
    """
    found = []
    for number, clusters in enumerate(levels):
        folder = scratch / f"level-{number}"
        points = folder / "centroids.npy"
        sink = io.BytesIO()
        np.save(sink, centroids)
        points.write_bytes(sink.getvalue())
        features, rows = as_features(points, "features", folder / "features")
        settings = ClusteringConfig(
            k=clusters,
            iterations=_ITERATIONS,
            restarts=_RESTARTS,
            init="kmeans++",
            pca_dim=0,
            l2=False,
            spherical=config.clustering.spherical,
            shards=1,
            cpus_per_shard=config.clustering.cpus_per_shard,
        )
        task = ClusteringTask((features,), rows, None, settings, seed, folder / "clusters")
        clustering = cluster(task, resources=config.resources)
        found.append(np.array(ray.get(clustering.labels[0])))
        clustering.close()
        data = (folder / "clusters" / "centroids.npy").read_bytes()
        centroids = np.load(io.BytesIO(data), allow_pickle=False)
    return found
