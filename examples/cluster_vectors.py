"""Cluster vectors of your own: ``python examples/cluster_vectors.py VECTORS OUT [key=value …]``.

VECTORS is a ``.npy`` file [n, d]. For example
``python examples/cluster_vectors.py vectors.npy clusters clustering.k=100 clustering.shards=4``.
The files in OUT are those of a run's clustering. The number of shards does not change them.
"""

from __future__ import annotations

import sys

import numpy as np
import ray

from pipeline import settings
from pipeline.clustering import ClusteringTask, cluster
from pipeline.clustering.vector_files import as_features
from pipeline.runtime.session import connect
from pipeline.storage import Location


def main(vectors: str, out: str, *overrides: str) -> np.ndarray:
    """int32 [n]: the cluster of every vector."""
    config = settings.load(list(overrides))
    place = Location.of(out)
    features, rows = as_features(Location.of(vectors), "features", place / "features")
    connect(config.resources)
    task = ClusteringTask((features,), rows, None, config.clustering, config.seed, place)
    clustering = cluster(task, resources=config.resources)
    labels = ray.get(clustering.labels[0])
    largest = int(clustering.sizes.argmax())
    print(f"{rows} vectors in {clustering.k} clusters of {sorted(clustering.sizes)}")
    print(f"most typical of cluster {largest}: rows {clustering.nearest_clips(largest, 5)}")
    clustering.close()
    return labels


if __name__ == "__main__":
    main(*sys.argv[1:])
