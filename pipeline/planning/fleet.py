"""The nodes that a run is planned for: those at hand, or other numbers of the same kinds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import ray

from pipeline.config import ResourcesConfig
from pipeline.errors import UserError
from pipeline.runtime.cluster_address import given_address
from pipeline.runtime.placement import GPU, MEMORY, choose_device, has_roles, local_cpus
from pipeline.telemetry.attempts import role_of


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one role; of unlike ones the mean."""

    role: str
    count: int
    cores: float  # of one node
    gpus: float
    store_bytes: float  # of its object store


@dataclass(frozen=True)
class Fleet:
    """Nodes by role, and which of them do what."""

    kinds: tuple[NodeKind, ...]
    roles: bool  # whether stages keep to nodes of their role
    decode_on: tuple[str, ...]
    device: str  # ``cpu`` or ``cuda``: of encoders and training

    @classmethod
    def at_hand(cls, resources: ResourcesConfig) -> Fleet:
        """The nodes of this Ray, as they are now."""
        by_role: dict[str, list[Mapping[str, float]]] = {}
        for node in ray.nodes():
            if node["Alive"]:
                by_role.setdefault(role_of(node), []).append(node["Resources"])
        kinds = []
        for role, nodes in sorted(by_role.items()):

            def mean(name: str, nodes: list[Mapping[str, float]] = nodes) -> float:
                return sum(node.get(name, 0.0) for node in nodes) / len(nodes)

            cores = sum(cores_of(node, resources) for node in nodes) / len(nodes)
            store = mean("object_store_memory")
            kinds.append(NodeKind(role, len(nodes), cores, mean("GPU"), store))
        device = choose_device(resources)
        return cls(tuple(kinds), has_roles(resources), resources.decode_on, device)

    def resized(self, counts: Mapping[str, int]) -> Fleet:
        """So many nodes of these roles, each like those at hand.

        Raises:
            UserError: no node of a role is there to be measured.
        """
        there = {kind.role for kind in self.kinds}
        if lacking := [role for role in counts if role not in there]:
            raise UserError(
                f"--nodes names the role {lacking[0]!r}, and no such node is here to be measured; "
                f"there are {', '.join(sorted(there))}"
            )
        kinds = (replace(kind, count=counts.get(kind.role, kind.count)) for kind in self.kinds)
        return replace(self, kinds=tuple(kinds))

    def with_cores(self, cores: float) -> Fleet:
        """With more nodes that decode, until they have so many cores together."""
        more = cores / max(self.decode_cores, 1e-9)
        counts = {kind.role: math.ceil(kind.count * max(more, 1.0)) for kind in self.decoders}
        return self.resized(counts)

    def with_gpus(self, times: int) -> Fleet:
        """With so many times the nodes that have GPUs."""
        return self.resized({kind.role: times * kind.count for kind in self.kinds if kind.gpus})

    def of(self, roles: Sequence[str]) -> list[NodeKind]:
        """Kinds whose nodes may do what keeps to these roles, and can: the head may have no CPU."""
        able = [kind for kind in self.kinds if kind.cores or kind.gpus]
        return [kind for kind in able if kind.role in roles] if self.roles else able

    @property
    def decoders(self) -> list[NodeKind]:
        return self.of(self.decode_on)

    @property
    def decode_cores(self) -> float:
        return sum(kind.count * kind.cores for kind in self.decoders)

    @property
    def gpus(self) -> float:
        return sum(kind.count * kind.gpus for kind in self.of(GPU))

    @property
    def trainers(self) -> int:
        """Nodes that encode and train."""
        return sum(kind.count for kind in self.of(GPU) if self.device == "cpu" or kind.gpus)

    @property
    def shares_cores(self) -> bool:
        """Whether encoders and training compute on the cores that decode."""
        theirs = {kind.role for kind in self.of(GPU)}
        return self.device == "cpu" and any(kind.role in theirs for kind in self.decoders)

    def working(self, stage: str) -> list[str]:
        """Roles of the nodes that a stage keeps busy, or from going.

        GPU nodes stay through a clustering: they are kept for the stage after it.
        """
        if not self.roles:
            return [kind.role for kind in self.kinds]
        of_stage = {
            "store": self.decode_on,
            "embed": (*self.decode_on, *GPU),
            "cluster": (*MEMORY, *GPU),
            "learn": (*self.decode_on, *GPU),
        }
        named = {"head", *of_stage.get(stage, ())}
        return [kind.role for kind in self.kinds if kind.role in named]

    def node_hours(self, stages: Sequence[tuple[str, float]], idle_s: float) -> dict[str, float]:
        """Role → node-hours of stages in their order, each with its seconds.

        A node that nothing needs goes after `idle_s`, and is not waited for when it comes again.
        """
        found = {}
        for kind in self.kinds:
            seconds = gap = 0.0
            begun = False
            for stage, took in stages:
                if kind.role in self.working(stage):
                    seconds += took + (min(gap, idle_s) if begun else 0.0)
                    begun, gap = True, 0.0
                else:
                    gap += took
            seconds += min(gap, idle_s) if begun else 0.0
            found[kind.role] = kind.count * seconds / 3600
        return found


def cores_of(node: Mapping[str, float], resources: ResourcesConfig) -> float:
    """Of a node with these resources; a Ray of the job's own has more logical CPUs than cores."""
    if given_address():
        return node.get("CPU", 0.0)
    return float(min(os.cpu_count() or 1, local_cpus(resources)))


def counts_of(text: str) -> dict[str, int]:
    """Role → nodes, of ``decode=8,gpu=2``.

    Raises:
        UserError: it is not written so.
    """
    found = {}
    for part in text.split(","):
        role, equals, count = part.strip().partition("=")
        if not equals or not role or not count.isdecimal():
            raise UserError(f"--nodes {text!r}: write role=count, such as decode=8,gpu=2")
        found[role] = int(count)
    return found
