"""Runs a pass: one dataset for every few encoder actors, each in a process of its own.

All rows of a dataset pass its executor, which takes some 18,000 small clips a second
(docs/scale.md). A pass with many actors therefore has several datasets, each with a share of the
cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.stream import Slots
from pipeline.config import Config
from pipeline.embedding.encode import Encode, Losses, encode_here
from pipeline.embedding.shards import FeatureSink
from pipeline.runtime.cluster_address import given_address
from pipeline.runtime.demands import how_many_fit
from pipeline.runtime.failures import unwrapped
from pipeline.runtime.placement import choose_device, decoding, encoding, on_this_node, writing
from pipeline.runtime.ray_data import Share, set_up_ray_data
from pipeline.storage import Location
from pipeline.telemetry.progress import Meter

# Encoder actors of a dataset: each may then encode 4,500 small clips a second.
ACTORS_EACH = 4
# Rows that an actor is given: Ray Data hands out more ten times a second at most.
IN_FLIGHT = 8
# Ray gives a process only to tasks with an equal environment: none of these to decoding.
ENCODES = {"env_vars": {"XDC_STAGE": "encode"}}
_END_S = 30  # how long processes that were stopped may take to go


@dataclass(frozen=True)
class Pass:
    """What all datasets of a pass have in common."""

    stream: Slots
    weights: Location | None
    config: Config
    device: str
    meter: Meter
    losses: Losses
    in_tasks: bool  # see `encodes_in_tasks`
    name: str = field(default_factory=lambda: uuid4().hex)  # no other pass has it

    def write(self, slots: np.ndarray, sink: FeatureSink, share: Share | None) -> list[str]:
        """Decode and encode these slots and write what they give; return the shards' names."""
        set_up_ray_data(share=share)
        resources = self.config.resources
        cost = decoding(resources, load_decoder(self.config.clips.decoder).on_gpu)
        datasets = share.datasets if share else 1
        encoded = self.stream.stream(cost, slots).map_batches(
            batch_size=None,
            **self.encoder_stage(datasets),
            **encoding(resources, self.device),
        )
        encoded.write_datasink(sink, ray_remote_args=writing(resources))
        return sink.names

    def encoder_stage(self, datasets: int = 1) -> dict[str, Any]:
        """`Encode` as `map_batches` takes it, for one of so many datasets."""
        modalities = self.stream.modalities
        given = (self.weights, modalities, self.config, self.device, self.meter, self.losses)
        if not self.in_tasks:
            pool = encoder_pool(self.config, datasets)
            return {"fn": Encode, "fn_constructor_args": given, "compute": pool}
        return {
            "fn": encode_here,
            "fn_args": (self.name, given),
            "compute": TaskPoolStrategy(
                size=math.ceil(self.config.embedding.max_actors / datasets)
            ),
            "runtime_env": ENCODES,
        }


def run(work: Pass, slots: np.ndarray, new_sink: Callable[[], FeatureSink]) -> list[str]:
    """Embed these slots; return the names of the shards.

    Raises:
        UserError: of a task or an actor, as it was raised there.
        WorkerCrashedError: the process of a dataset died. What is written stays.
    """
    parts = [part for part in np.array_split(slots, datasets_for(work.config)) if len(part)]
    with unwrapped():
        if len(parts) == 1:
            return work.write(slots, new_sink(), share=None)
        boxed, share = ray.put(work), Share(len(parts), held_cpus=0)
        write = ray.remote(embed_part).options(max_retries=0, **on_this_node())
        waiting = [write.remote(boxed, part, new_sink(), share) for part in parts]
        names: list[str] = []
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting)
                names += ray.get(done)
        finally:
            for task in waiting:
                ray.cancel(task, force=True)
            if waiting:
                ray.wait(waiting, num_returns=len(waiting), timeout=_END_S)
        return names


def embed_part(work: Pass, slots: np.ndarray, sink: FeatureSink, share: Share) -> list[str]:
    """The task that runs the executor of one of several datasets."""
    return work.write(slots, sink, share)


def datasets_for(config: Config) -> int:
    """How many datasets a pass has: enough for the actors for which there is room now.

    Actors of a dataset for which there is room only later wait until another dataset is done.
    """
    settings, resources = config.embedding, config.resources
    options = encoding(resources, choose_device(resources))
    actors = max(how_many_fit(options, settings.max_actors), settings.min_actors)
    return math.ceil(actors / ACTORS_EACH)


def encodes_in_tasks(device: str) -> bool:
    """Whether tasks encode, and not actors.

    They do on the CPUs of a Ray that the job started itself: processes of tasks stay for the next
    pass, and to import torch takes five seconds of a processor.
    """
    return device == "cpu" and not given_address()


def encoder_pool(config: Config, datasets: int = 1) -> ActorPoolStrategy:
    """The encoder actors of one of so many datasets."""
    settings = config.embedding
    return ActorPoolStrategy(
        min_size=math.ceil(settings.min_actors / datasets),
        max_size=math.ceil(settings.max_actors / datasets),
        max_tasks_in_flight_per_actor=IN_FLIGHT,
    )
