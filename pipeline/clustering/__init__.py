"""Distributed k-means: the same bytes for any sharding, and through any death (see blocks.py)."""

from pipeline.clustering.handle import Clustering, cluster, serve_finished
from pipeline.clustering.kmeans import KMeansProgress
from pipeline.clustering.labels import read_labels
from pipeline.clustering.problem import ClusteringTask

__all__ = [
    "Clustering",
    "ClusteringTask",
    "KMeansProgress",
    "cluster",
    "read_labels",
    "serve_finished",
]
