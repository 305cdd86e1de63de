"""Distributed k-means: the same bytes for any sharding, and through any death (see blocks.py)."""

from pipeline.clustering.cluster import Clustering, cluster, publish
from pipeline.clustering.kmeans import Progress
from pipeline.clustering.labels import read_labels

__all__ = ["Clustering", "Progress", "cluster", "publish", "read_labels"]
