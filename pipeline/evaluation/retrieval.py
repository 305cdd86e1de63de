"""Measures of frozen features without a classifier: retrieval, and clusters against labels."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from pipeline.clustering import measures
from pipeline.evaluation.classifiers import ClipFeatures
from pipeline.evaluation.splits import Split

RECALLS = (1, 5, 10, 20, 50)
_RESTARTS = 10  # of k-means


def recalls(
    features: ClipFeatures, labels: np.ndarray, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Whether a test example finds its class among its nearest training examples.

    As in SeLaVi: features of length one for each clip, averaged over an example's clips; the
    training examples are the gallery, nearest by Euclidean distance.

    Returns:
        int64 [n], the test examples that have features, and bool [n, len(RECALLS)].
    """
    averaged = features.averaged()
    gallery, asked = averaged.of(split.train), averaged.of(split.test)
    deepest = min(max(RECALLS), len(gallery.example))
    search = NearestNeighbors(n_neighbors=deepest, algorithm="brute").fit(gallery.values)
    near = search.kneighbors(asked.values, return_distance=False)
    same = labels[gallery.example][near] == labels[asked.example][:, None]
    return asked.example, np.stack([same[:, :k].any(axis=1) for k in RECALLS], axis=1)


def cluster_measures(
    features: ClipFeatures, labels: np.ndarray, examples: np.ndarray, seed: int
) -> dict[str, float]:
    """Agreement with the labels of k-means with as many clusters as classes, on averaged features.

    Args:
        examples: int64, which ones to cluster.
    """
    averaged = features.averaged().of(examples)
    classes = labels[averaged.example]
    k = min(len(np.unique(classes)), len(classes))
    means = KMeans(n_clusters=k, n_init=_RESTARTS, random_state=seed)
    return agreement_with_labels(means.fit_predict(averaged.values).astype(np.int64), classes)


def agreement_with_labels(assigned: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Every measure of clusters against labels, int64 [n] each, -1 is none."""
    return {
        "nmi": measures.normalized_mutual_information(classes, assigned),
        "ami": measures.adjusted_mutual_information(classes, assigned),
        "ari": measures.adjusted_rand_index(classes, assigned),
        "purity": measures.purity(assigned, classes),
        "hungarian_accuracy": measures.hungarian_accuracy(assigned, classes),
    }
