"""What each stage must have side by side, whether this Ray can ever give it, and what is lacking.

A request that fits no node waits for ever without a word. Where nodes may still join, it is only
said what is awaited. A cluster that stays as it is refuses the job at once.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline.config import Config, ResourcesConfig
from pipeline.errors import UserError
from pipeline.runtime import placement
from pipeline.runtime.cluster_address import given_address
from pipeline.runtime.placement import Options, choose_device

_EPSILON = 1e-6  # of a CPU


@dataclass(frozen=True)
class Need:
    """So many equal tasks or actors at once."""

    what: str  # one of them, in words
    count: int
    options: Options
    advice: str  # which settings ask for less

    def __str__(self) -> str:
        asked = [f"{self.options['num_cpus']:g} CPUs"]
        if self.options.get("num_gpus"):
            asked.append(f"{self.options['num_gpus']:g} GPUs")
        roles = _roles(self.options)
        role = f" on nodes with the role {' or '.join(roles)}" if roles else ""
        return f"{self.count} × {self.what} of {' and '.join(asked)}{role}"


Stage = Sequence[Need]  # what must run at the same time


def decoding(resources: ResourcesConfig, on_gpu: bool = False) -> Stage:
    advice = "clips.decoder=cpu" if on_gpu else "resources.decode_cpus"
    return [Need("decoding task", 1, placement.decoding(resources, on_gpu), advice)]


def embedding(config: Config, on_gpu: bool = False) -> Stage:
    resources = config.resources
    options = placement.encoding(resources, choose_device(resources))
    actors = Need("encoder actor", config.embedding.min_actors, options, "embedding.min_actors")
    return [actors, *decoding(resources, on_gpu)]


def clustering(config: Config) -> Stage:
    """One shard: there are as many as fit, and the result is the same."""
    options = placement.clustering(config.clustering, config.resources)
    advice = "clustering.cpus_per_shard or clustering.gpus_per_shard"
    return [Need("shard of k-means", 1, options, advice)]


def learning(config: Config, on_gpu: bool = False) -> Stage:
    resources, least = config.resources, config.learning.min_workers
    options = placement.training(config.learning, resources, choose_device(resources))
    advice = "learning.workers or learning.cpus_per_worker"
    workers = Need("training worker", least or config.learning.workers, options, advice)
    return [workers, *decoding(resources, on_gpu)]


def check(config: Config, on_gpu: bool = False) -> None:
    """Every stage of a pretraining, before the first begins; `on_gpu`: the decoder needs GPUs.

    Raises:
        UserError: this Ray can never give a stage what it asks for.
    """
    stages = (embedding(config, on_gpu), clustering(config), learning(config, on_gpu))
    for stage in stages:
        refuse_impossible(stage, config.resources)


def refuse_impossible(stage: Stage, resources: ResourcesConfig) -> None:
    """Raises UserError where a stage asks for what this Ray does not have and will never have."""
    lacks = lacking(stage)
    if not lacks or (given_address() and placement.may_grow(resources)):
        return
    total = ray.cluster_resources()
    there = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    advice = list(dict.fromkeys(demand.advice for demand in lacks))
    if not given_address():
        advice.append("resources.local_cpus (upwards)")
    if any(demand.options.get("num_gpus") and not total.get("GPU") for demand in lacks):
        advice = ["resources.device=cpu", *advice[1:]]
    if any(_roles(demand.options) for demand in lacks):
        advice.append("resources.roles=false")
    raise UserError(
        f"this Ray can never run {' beside '.join(map(str, lacks))}: it has {there} on "
        f"{len(_nodes())} nodes, and no others will join. Change {', '.join(advice)}"
    )


def lacking(stage: Stage) -> list[Need]:
    """The demands that the nodes of now could not meet even if they had nothing else to do.

    Only what is certain: equal bundles are counted node by node, unlike ones are summed up.
    """
    for demand in stage:
        if how_many_fit(demand.options, demand.count) < demand.count:
            return [demand]
    for name in ("CPU", "GPU"):
        asked = sum(demand.count * _asks(demand.options, name) for demand in stage)
        nodes = [node for node in _nodes() if any(_may_run(node, d.options) for d in stage)]
        there = sum(node["Resources"].get(name, 0.0) for node in nodes)
        if asked > there + _EPSILON:
            return list(stage)
    return []


def how_many_fit(options: Options, most: int) -> int:
    """How many equal tasks or actors the nodes of now can hold at once, up to `most`."""
    fits = 0
    for node in _nodes():
        if _may_run(node, options):
            here = most
            for name in ("CPU", "GPU"):
                if each := _asks(options, name):
                    room = node["Resources"].get(name, 0.0)
                    here = min(here, int(room / each + _EPSILON))
            fits += here
    return min(fits, most)


def awaited(stage: Stage) -> str:
    """What a stage that has not begun waits for, in words; empty where nothing is lacking."""
    lacks = lacking(stage)
    if not lacks:
        return ""
    total = ray.cluster_resources()
    there = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    words = f"waits for nodes for {' beside '.join(map(str, lacks))}; there are {there}"
    return f"{words}; {said}" if (said := autoscaler_says()) else words


def autoscaler_says(timeout_s: float = 20.0) -> str:
    """What ``ray status`` tells of nodes to come and of those that failed; empty: nothing."""
    command = [str(Path(sys.executable).parent / "ray"), "status", "-v", "--address"]
    address = ray.get_runtime_context().gcs_address
    try:
        ended = subprocess.run(
            [*command, address], capture_output=True, text=True, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ", ".join(_told(ended.stdout.splitlines())) if ended.returncode == 0 else ""


def _told(lines: Iterable[str]) -> Iterator[str]:
    section = ""
    for line in lines:
        if not line.startswith(" "):
            section = line.strip().rstrip(":")
        elif section in ("Pending", "Recent failures") and not line.strip().startswith("(no "):
            yield f"{section.lower()}: {' '.join(line.split())}"


def _asks(options: Options, name: str) -> float:
    return float(options.get({"CPU": "num_cpus", "GPU": "num_gpus"}[name]) or 0.0)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _may_run(node: dict[str, Any], options: Options) -> bool:
    roles = _roles(options)
    return not roles or (node["Labels"] or {}).get("role") in roles


def _roles(options: Options) -> list[str]:
    """Of `placement`'s selector ``in(decode,gpu)``."""
    selector = (options.get("label_selector") or {}).get("role", "")
    return [role for role in selector.removeprefix("in(").removesuffix(")").split(",") if role]
