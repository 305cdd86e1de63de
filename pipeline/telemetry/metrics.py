"""A run's metrics for Prometheus, beside Ray's own. observe/ holds a dashboard and alerts for them.

Ray collects them from any process and every node exports them as ``ray_<name>``, counters as
``ray_<name>_total``. Call these functions once a batch, step or iteration, never once a clip.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge

# name → (meaning, labels)
COUNTERS = {
    "xdc_done": ("inputs indexed, or clips processed by a stage", ("stage",)),
    "xdc_rejects": ("inputs and clips that could not be used", ("reason",)),
}
GAUGES = {
    "xdc_round": ("the round in progress", ()),
    "xdc_loss": ("loss of the last step, mean over workers", ("loss",)),
    "xdc_wait_share": ("share of its time that training waits for decoded clips", ()),
    "xdc_gpu_memory_bytes": ("GPU memory that torch holds in one process", ("stage",)),
    "xdc_kmeans_objective": ("sum of squared distances of the last iteration", ("clustering",)),
    "xdc_kmeans_iteration": ("iterations done in this attempt", ("clustering",)),
    "xdc_effective_clusters": ("effective number of clusters, as a share of k", ("clustering",)),
}


def count(name: str, more: float, **labels: str) -> None:
    """Add to a counter of `COUNTERS`."""
    if more > 0:
        _metric(Counter, name).inc(more, labels)


def rejects(reasons: Iterable[str]) -> None:
    """Count rejected inputs and clips by their reasons."""
    for reason, number in collections.Counter(reasons).items():
        count("xdc_rejects", number, reason=reason)


def level(name: str, value: float, **labels: str) -> None:
    """Set a gauge of `GAUGES`."""
    _metric(Gauge, name).set(value, labels)


def gpu_memory(stage: str) -> None:
    """Set this process's GPU memory if it uses a GPU."""
    import torch  # takes seconds, and most processes that count need no GPU

    if torch.cuda.is_initialized():
        level("xdc_gpu_memory_bytes", torch.cuda.memory_reserved(), stage=stage)


@cache
def _metric(kind: type[Counter] | type[Gauge], name: str) -> Any:
    meaning, labels = (COUNTERS | GAUGES)[name]
    return kind(name, meaning, labels)
