"""Where the work of each stage lives, and the nodes that are asked for before a stage begins.

A cluster may give its nodes a role by the label ``role`` (cluster.yaml):

    decode   decoding tasks: cheap nodes, easily lost
    memory   the shards of k-means
    gpu      encoder actors and training workers, and no decoding unless it is wanted there

What lives as long as the run (the clips table, pseudo-labels, their index) is kept on the driver's
node: an object or an actor anywhere else would keep a node from ever being idle, and a spot node
would take it along. Without roles, as on a laptop, stages ask for CPUs and GPUs alone.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import ClusteringConfig, Config, ResourcesConfig

if TYPE_CHECKING:
    import ray.data

    from pipeline.progress import Progress

Options = dict[str, Any]  # of a Ray task, actor or `map_batches`

_RENEW_S = 30.0
_HELD_S = 120.0  # what a driver that dies has asked for is forgotten after so long
_ENCODER_CPUS = 0.5


def decoding(resources: ResourcesConfig, decoder: str = "cpu") -> Options:
    """A decoding task: its cores, in the logical CPUs that stand for them, and its part of a GPU
    where that decodes."""
    on_gpu = decoder == "cuda"
    cpus = resources.decode_cpus
    if not os.environ.get("RAY_ADDRESS"):
        cpus *= max(1.0, local_cpus(resources) / (os.cpu_count() or 1))
    return {
        "num_cpus": cpus,
        "num_gpus": resources.decode_gpus if on_gpu else 0.0,
        **_on(resources.train_on if on_gpu else resources.decode_on, resources),
    }


def encoding(resources: ResourcesConfig, device: str, decoder: str = "cpu") -> Options:
    """An encoder actor. Ray Data would make one actor of two stages that ask for the same, and
    decode in it, one batch after the other: it asks for a little more or less than decoding."""
    cpus = _ENCODER_CPUS
    if decoding(resources, decoder)["num_cpus"] == cpus:
        cpus += 0.01
    gpus = 1 if device == "cuda" else 0
    return {"num_cpus": cpus, "num_gpus": gpus, **_on(resources.train_on, resources)}


def writing(resources: ResourcesConfig) -> Options:
    """A task that writes a shard of features."""
    return {"num_cpus": 0.25, **_on(resources.decode_on, resources)}


def training(resources: ResourcesConfig) -> dict[str, str] | None:
    """The labels that a training worker's node must have."""
    return _on(resources.train_on, resources).get("label_selector")


def clustering(config: ClusteringConfig, resources: ResourcesConfig) -> Options:
    """A shard of k-means."""
    return {
        "num_cpus": config.cpus_per_shard,
        "num_gpus": config.gpus_per_shard,
        **_on(resources.shards_on, resources),
    }


def feeding(resources: ResourcesConfig) -> ray.data.ExecutionOptions:
    """How Ray Data feeds the training workers: in order, since slots are dealt to them in turn."""
    from ray.data import ExecutionOptions, ExecutionResources  # seconds, for who needs it

    limits = ExecutionResources.for_limits(cpu=resources.learn_decode_cpus or None)
    return ExecutionOptions(preserve_order=True, resource_limits=limits)


def packed(dataset: ray.data.Dataset) -> ray.data.Dataset:
    """Its tasks on as few nodes as they fit; Ray Data spreads them over all, and none is idle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this setting will go; another may come
        dataset.context.scheduling_strategy = "DEFAULT"
    return dataset


def home() -> Options:
    """Something small that lives long: on the driver's node, which must last anyway."""
    node = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def may_grow(resources: ResourcesConfig) -> bool:
    """Whether more nodes may come than there are: roles say so, and a head that does no work."""
    return has_roles(resources) or ray.cluster_resources().get("CPU", 0.0) == 0.0


def has_roles(resources: ResourcesConfig) -> bool:
    if resources.roles == "auto":
        return any("role" in (node["Labels"] or {}) for node in ray.nodes() if node["Alive"])
    return resources.roles


def local_cpus(resources: ResourcesConfig) -> int:
    """Logical CPUs of a Ray that the job starts for itself."""
    return resources.local_cpus or max(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Bundle:
    """What one node must be able to hold at once."""

    resources: dict[str, float]
    labels: dict[str, str]

    @classmethod
    def of(cls, options: Options) -> Bundle:
        asked = {"CPU": options.get("num_cpus", 0), "GPU": options.get("num_gpus", 0)}
        return cls({k: v for k, v in asked.items() if v}, options.get("label_selector", {}))


def shards_ahead(config: Config) -> list[Bundle]:
    """For the clustering that comes next."""
    one = Bundle.of(clustering(config.clustering, config.resources))
    return [one] * config.clustering.shards


def workers_ahead(config: Config, device: str) -> list[Bundle]:
    """For the learning that comes next."""
    options = {
        "num_cpus": config.learning.cpus_per_worker,
        "num_gpus": 1 if device == "cuda" else 0,
        **_on(config.resources.train_on, config.resources),
    }
    return [Bundle.of(options)] * config.learning.workers


class Standby:
    """Asks for the nodes of the stages to come when the stage before them nears its end.

    They are kept, idle or not, until the ``with`` block ends. Ray Data's coordinator does the
    asking: it has one request for the whole cluster and overwrites any other at its next turn, of
    `ray.autoscaler.sdk.request_resources` too. What is asked for is what the cluster should hold in
    all, so that nodes which work count. Its lowest priority leaves the dataset what it needs.
    """

    def __init__(self, bundles: Sequence[Bundle], resources: ResourcesConfig) -> None:
        self._bundles = list(bundles)
        self._lead_s = 60 * resources.lead_minutes
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Standby:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def after(self, progress: Progress) -> None:
        """The stage before them begins: watch how much of it is left."""
        if self._lead_s and self._thread is None and os.environ.get("RAY_ADDRESS"):
            self._thread = threading.Thread(target=self._watch, args=(progress,), daemon=True)
            self._thread.start()

    def _watch(self, progress: Progress) -> None:
        from ray.data._internal import cluster_autoscaler as data

        began = time.monotonic()
        while not self._over.wait(1.0):
            rate = progress.done / (time.monotonic() - began)
            if progress.total - progress.done <= rate * self._lead_s:
                break
        job = ray.get_runtime_context().get_job_id()
        coordinator = data.DefaultAutoscalingCoordinator(f"xdc-{job}")
        while not self._over.is_set():
            coordinator.request_resources(
                [dict(bundle.resources) for bundle in self._bundles],
                expire_after_s=_HELD_S,
                priority=data.ResourceRequestPriority.LOW,
                label_selectors=[dict(bundle.labels) for bundle in self._bundles],
            )
            self._over.wait(_RENEW_S)
        coordinator.cancel_request()


def _on(roles: Sequence[str], resources: ResourcesConfig) -> Options:
    if not roles or not has_roles(resources):
        return {}
    return {"label_selector": {"role": f"in({','.join(roles)})"}}
