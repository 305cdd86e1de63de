"""Where the work of each stage lives.

A cluster may give its nodes a role by the label ``role`` (cluster.yaml):

    decode   decoding tasks: cheap nodes, easily lost
    memory   the shards of k-means
    gpu      encoder actors and training workers, and no decoding unless it is wanted there

What lives as long as the run (the clips table, pseudo-labels, their index) is on the driver's node:
anywhere else an object or an actor would keep a node from ever being idle, and a spot node would
take it along. Without roles, as on a laptop, stages ask for CPUs and GPUs alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray

from pipeline.config import ClusteringConfig, LearningConfig, ResourcesConfig
from pipeline.runtime.cluster_address import given_address

Options = dict[str, Any]  # of a Ray task, actor or `map_batches`

MEMORY, GPU = ("memory",), ("gpu",)  # roles
# Environment of a process that trains on a CPU: glibc keeps the memory of freed tensors for the
# next step. Else the kernel takes large ones back and zeroes each page anew, and a step of R(2+1)D
# may take 1.4 times as long (benchmarks/README.md, "The step on a CPU").
KEEPS_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",  # training runs in a thread, and other arenas hold only small things
}


def choose_device(resources: ResourcesConfig) -> str:
    """``cuda`` or ``cpu``; *auto* takes GPUs where the cluster has any."""
    if resources.device != "auto":
        return resources.device
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def decoding(resources: ResourcesConfig, on_gpu: bool = False, packed: bool = False) -> Options:
    """A decoding task: its cores, as logical CPUs, and part of a GPU for a `Decoder.on_gpu`.

    `packed`: few tasks share few nodes. Ray Data would deal them to all nodes in turn, and none of
    these would ever be idle while learning takes its clips more slowly than all decode.
    """
    cpus = resources.decode_cpus
    if not given_address():
        cpus *= max(1.0, local_cpus(resources) / (os.cpu_count() or 1))
    roles, gpus = (GPU, 0.1) if on_gpu else (resources.decode_on, 0.0)
    options = _options(resources, roles, cpus, gpus)
    return options | {"scheduling_strategy": "DEFAULT"} if packed else options


def encoding(resources: ResourcesConfig, device: str) -> Options:
    """An encoder actor. Ray Data fuses stages with equal requests, and would then decode serially
    inside the actor: requesting slightly different CPUs prevents that."""
    cpus = 0.51 if decoding(resources)["num_cpus"] == 0.5 else 0.5
    return _options(resources, GPU, cpus, int(device == "cuda"))


def writing(resources: ResourcesConfig) -> Options:
    """A task that writes a shard of features."""
    return _options(resources, resources.decode_on, 0.25)


def training(config: LearningConfig, resources: ResourcesConfig, device: str) -> Options:
    """A training worker."""
    return _options(resources, GPU, config.cpus_per_worker, int(device == "cuda"))


def clustering(config: ClusteringConfig, resources: ResourcesConfig) -> Options:
    """A shard of k-means."""
    return _options(resources, MEMORY, config.cpus_per_shard, config.gpus_per_shard)


def on_this_node() -> Options:
    """Something small beside the process that asks: where this node goes, it is not needed."""
    return beside("")


def beside(node: str) -> Options:
    """Something small on the node with this id; on this process's node, where none is given."""
    node = node or ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "label_selector": {"ray.io/node-id": node}}


def may_grow(resources: ResourcesConfig) -> bool:
    """Whether more nodes may join: there are roles, or the head node runs no work."""
    return has_roles(resources) or ray.cluster_resources().get("CPU", 0.0) == 0.0


def has_roles(resources: ResourcesConfig) -> bool:
    if resources.roles == "auto":
        return any("role" in (node["Labels"] or {}) for node in ray.nodes() if node["Alive"])
    return resources.roles


def local_cpus(resources: ResourcesConfig) -> int:
    """Logical CPUs of a Ray that the job starts for itself."""
    return resources.local_cpus or max(4, os.cpu_count() or 1)


def _options(
    resources: ResourcesConfig, roles: Sequence[str], cpus: float, gpus: float = 0
) -> Options:
    options: Options = {"num_cpus": cpus, "num_gpus": gpus}
    if roles and has_roles(resources):
        options["label_selector"] = {"role": f"in({','.join(roles)})"}
    return options
