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

import math
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from pipeline.config import ClusteringConfig, Config, ResourcesConfig

if TYPE_CHECKING:
    from pipeline.progress import Progress

Options = dict[str, Any]  # of a Ray task, actor or `map_batches`

_ENCODER_CPUS = 0.5


def decoding(resources: ResourcesConfig, decoder: str = "cpu", packed: bool = False) -> Options:
    """A decoding task: its cores, in the logical CPUs that stand for them, and its part of a GPU
    where that decodes.

    Args:
        packed: few tasks share few nodes. Ray Data would deal them to all nodes in turn, and none
            of these would ever be idle while learning takes its clips more slowly than all decode.
    """
    on_gpu = decoder == "cuda"
    cpus = resources.decode_cpus
    if not os.environ.get("RAY_ADDRESS"):
        cpus *= max(1.0, local_cpus(resources) / (os.cpu_count() or 1))
    return {
        "num_cpus": cpus,
        "num_gpus": resources.decode_gpus if on_gpu else 0.0,
        **({"scheduling_strategy": "DEFAULT"} if packed else {}),
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


def home() -> Options:
    """Something small that lives long: on the driver's node, which must last anyway."""
    node = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "label_selector": {"ray.io/node-id": node}}


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


class Standby:
    """Nodes for a stage to come, asked for when the stage before it nears its end, then kept.

    They are a placement group, which counts as demand of its own. Ray's other way, a request for
    resources, does not serve beside a dataset: Ray Data's coordinator overwrites it within seconds,
    and the autoscaler leaves out the whole of it as soon as one bundle, of Ray Data's too, exceeds
    what the cluster may ever have.

    Args:
        options: of each actor that the stage will start.
        count: how many it will start.
        freed: how many of them fit where the stage before works; they are kept when it has ended.
    """

    def __init__(
        self, options: Options, count: int, resources: ResourcesConfig, freed: int = 0
    ) -> None:
        asked = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
        self._bundle = {name: value for name, value in asked.items() if value}
        self._labels = options.get("label_selector", {})
        self._later = min(freed, count)
        self._ahead = count - self._later
        self._lead_s = 60 * resources.lead_minutes if may_grow(resources) else 0.0
        self._groups: list[PlacementGroup] = []
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def before(self, progress: Progress) -> None:
        """The stage before it begins; watch how much of that is left."""
        if self._lead_s and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, args=(progress,), daemon=True)
            self._watcher.start()

    def release(self) -> None:
        """The stage begins and asks for itself."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        while self._groups:
            remove_placement_group(self._groups.pop())

    def _watch(self, progress: Progress) -> None:
        began = time.monotonic()
        while not self._over.wait(1.0):
            rate = progress.done / (time.monotonic() - began)
            left = progress.total - progress.done
            if self._ahead and left <= rate * self._lead_s:
                self._keep(self._ahead)
                self._ahead = 0
            if self._later and left <= 0:
                self._keep(self._later)
                self._later = 0

    def _keep(self, count: int) -> None:
        labels = [self._labels] * count if self._labels else None
        self._groups.append(placement_group([self._bundle] * count, bundle_label_selector=labels))


def for_clustering(config: Config, num_clips: int) -> Standby:
    """After an embedding: the shards of k-means, if so many clips take any."""
    blocks = math.ceil(num_clips / config.clustering.block_size)
    count = min(config.clustering.shards, blocks) if blocks > 1 else 0
    return Standby(clustering(config.clustering, config.resources), count, config.resources)


def for_learning(config: Config, device: str) -> Standby:
    """After an embedding: the training workers, some of them where its encoders were."""
    options = {
        "num_cpus": config.learning.cpus_per_worker,
        "num_gpus": 1 if device == "cuda" else 0,
        **_on(config.resources.train_on, config.resources),
    }
    freed = max(config.embedding.actors, config.embedding.max_actors)
    return Standby(options, config.learning.workers, config.resources, freed)


def _on(roles: Sequence[str], resources: ResourcesConfig) -> Options:
    if not roles or not has_roles(resources):
        return {}
    return {"label_selector": {"role": f"in({','.join(roles)})"}}
