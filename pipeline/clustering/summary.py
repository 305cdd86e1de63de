"""One clustering in a few numbers: what the log, the events and the trackers show of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.clustering import measures
from pipeline.clustering.agreement import agreement
from pipeline.clustering.handle import Clustering
from pipeline.clustering.kmeans import KMeansProgress
from pipeline.telemetry import metrics
from pipeline.telemetry.console import say


def summarize(
    clustering: Clustering,
    labels: np.ndarray,
    *,
    before: np.ndarray | None = None,
    files: np.ndarray | None = None,
    others: Mapping[str, np.ndarray] | None = None,
    first: bool = False,
) -> dict[str, float]:
    """How a clustering looks, how far it moved from the one before, how far it agrees with others.

    Args:
        clustering: the finished clustering.
        labels: int32[N], its labels; -1: none.
        before: int32[N], the same clustering's labels a round earlier; None: there are none.
        files: int[m], the file of each of the first m clips; None where a file is a clip.
        others: name → labels int32[N] of the method's other clusterings.
        first: whether no encoder has learned from clusters yet. Then, with ``files``, also how far
            the clusters follow what a file's clips share, which is beside the point.

    Returns:
        ``k``, ``objective`` (the last iteration's), ``imbalance``, ``effective_clusters``, and as
        far as there is something to compare with ``nmi_to_last``, ``churn``, ``ami_to_files``,
        ``agreement_with_{name}`` and ``agreement_with_{name}_beyond_files``, in this order.
    """
    values = {
        "k": float(clustering.k),
        "objective": clustering.objective[-1],
        "imbalance": measures.imbalance_factor(clustering.sizes),
        "effective_clusters": measures.effective_clusters(clustering.sizes),
    }
    if before is not None:
        values["nmi_to_last"] = measures.normalized_mutual_information(before, labels)
        values["churn"] = measures.churn(before, labels)
    if first and files is not None:
        some = labels[: len(files)]
        values["ami_to_files"] = measures.adjusted_mutual_information(files, some)
    for name, theirs in (others or {}).items():
        # Without labels, the best sign that learning goes well (benchmarks/findings.md).
        values[f"agreement_with_{name}"] = agreement(theirs, labels)
        if files is not None:
            values[f"agreement_with_{name}_beyond_files"] = agreement(theirs, labels, files)
    return values


def show_progress(name: str, progress: KMeansProgress) -> None:
    """Tell monitors where the clustering of this name is."""
    metrics.level("xdc_kmeans_iteration", progress.iteration, clustering=name)
    if progress.objective is not None:
        metrics.level("xdc_kmeans_objective", progress.objective, clustering=name)


def warn_of_collapse(name: str, clustering: Clustering) -> None:
    """Tell monitors how many clusters are in use, and the user where too few are."""
    used = measures.effective_clusters(clustering.sizes) / clustering.k
    metrics.level("xdc_effective_clusters", used, clustering=name)
    warning = measures.collapse_alarm(clustering.sizes)
    if warning:
        say(f"warning: {name} clusters: {warning}")
