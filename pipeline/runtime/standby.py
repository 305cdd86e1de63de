"""Nodes that are asked for before the stage that needs them begins."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import ExitStack

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from pipeline.config import Config, ResourcesConfig
from pipeline.runtime.placement import Options, choose_device, clustering, may_grow, training

LeftS = Callable[[], float | None]  # seconds until a stage ends, 0 when it has; None: unknown


class Standby:
    """Nodes for a stage to come, asked for when the stage before it nears its end, then kept.

    They are a placement group, which counts as demand of its own. A request for resources fails
    beside a dataset: Ray Data's coordinator overwrites it within seconds, and the autoscaler drops
    all of it as soon as one bundle, of Ray Data's too, exceeds what the cluster may ever have.

    Args:
        options, count: of the actors that the stage will start.
        freed: how many of them fit where the stage before works; they are kept when it has ended.
    """

    def __init__(
        self, options: Options, count: int, resources: ResourcesConfig, freed: int = 0
    ) -> None:
        asked = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
        self._bundle = {name: value for name, value in asked.items() if value}
        self._labels = options.get("label_selector")
        lead_s = 60 * resources.lead_minutes if may_grow(resources) else 0.0
        later = min(freed, count)
        # How many to ask for, and how little must be left before that.
        self._wanted = [(count - later, lead_s), (later, 0.0)] if lead_s else []
        self._groups: list[PlacementGroup] = []
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def before(self, left_s: LeftS) -> None:
        """The stage before it begins; watch how much of that is left."""
        if self._wanted and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, args=(left_s,), daemon=True)
            self._watcher.start()

    def release(self) -> None:
        """The stage begins and asks for itself."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        while self._groups:
            remove_placement_group(self._groups.pop())

    def _watch(self, left_s: LeftS) -> None:
        while not self._over.wait(1.0):
            now = left_s()
            while self._wanted and now is not None and now <= self._wanted[0][1]:
                count, _ = self._wanted.pop(0)
                labels = [self._labels] * count if self._labels else None
                bundles = [self._bundle] * count
                if count:
                    self._groups.append(placement_group(bundles, bundle_label_selector=labels))


class NextStages(ExitStack):
    """Nodes of the stages after an embedding pass, asked for when that nears its end.

    For a ``with`` statement around embedding and clustering; `learning`, if it follows, then asks
    for itself.
    """

    def __init__(self, config: Config, num_clips: int, learning: bool = True) -> None:
        super().__init__()
        resources = config.resources
        blocks = math.ceil(num_clips / config.clustering.block_size)
        shards = min(config.clustering.shards, blocks) if blocks > 1 else 0
        self._shards = Standby(clustering(config.clustering, resources), shards, resources)
        self._stages = [self._shards]
        if learning:
            options = training(config.learning, resources, choose_device(resources))
            freed = config.embedding.max_actors
            self._stages.append(Standby(options, config.learning.workers, resources, freed))
        for standby in self._stages:
            self.callback(standby.release)

    def before(self, left_s: LeftS) -> None:
        """The embedding pass begins."""
        for standby in self._stages:
            standby.before(left_s)

    def clustering_begins(self) -> None:
        """Clustering asks for its own nodes from here on."""
        self._shards.release()
