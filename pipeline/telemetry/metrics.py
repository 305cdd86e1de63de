"""What Prometheus sees of a run, beside Ray's own metrics; observe/ says what to make of it.

Ray collects these from any process and exports them on every node as ``ray_<name>``, counters as
``ray_<name>_total``. Called once a batch, a step or an iteration, never once a clip.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from functools import cache

from ray.util.metrics import Counter, Gauge

# name → (meaning, labels)
COUNTERS = {
    "xdc_done": ("inputs indexed, or clips that a stage is done with", ("stage",)),
    "xdc_rejects": ("inputs and clips that could not be used", ("reason",)),
}
GAUGES = {
    "xdc_round": ("the round that is played", ()),
    "xdc_loss": ("of the last step, mean over workers", ("loss",)),
    "xdc_wait_share": ("part of its time that training waits for decoded clips", ()),
    "xdc_gpu_memory_bytes": ("that torch holds in one process", ("stage",)),
    "xdc_kmeans_objective": ("sum of squared distances of the last iteration", ("clustering",)),
    "xdc_kmeans_iteration": ("iterations of this attempt that are done", ("clustering",)),
    "xdc_effective_clusters": ("part of the k clusters that is in use", ("clustering",)),
}


def count(name: str, more: float, **labels: str) -> None:
    """Add to a counter of `COUNTERS`."""
    if more > 0:
        _counter(name).inc(more, labels)


def rejects(reasons: Iterable[str]) -> None:
    """Count what was refused, by its reason."""
    for reason, number in collections.Counter(reasons).items():
        count("xdc_rejects", number, reason=reason)


def level(name: str, value: float, **labels: str) -> None:
    """Set a gauge of `GAUGES`."""
    _gauge(name).set(value, labels)


def gpu_memory(stage: str) -> None:
    """Set this process's GPU memory, where it uses any."""
    import torch

    if torch.cuda.is_initialized():
        level("xdc_gpu_memory_bytes", torch.cuda.memory_reserved(), stage=stage)


@cache
def _counter(name: str) -> Counter:
    meaning, labels = COUNTERS[name]
    return Counter(name, meaning, labels)


@cache
def _gauge(name: str) -> Gauge:
    meaning, labels = GAUGES[name]
    return Gauge(name, meaning, labels)
