"""Parts of scale.py: batches to training workers and encoders that take no time.

The control path is Ray's own. What stands for decoding takes a set time, and gives zeros.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import psutil
import ray
import ray.data

# Nothing public tells what a node's object store holds.
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from scale_stubs import BATCH, Nothing, StubSlots
from scale_tables import labels_of, store_bytes

from pipeline.clips.slots import Order
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.embedding.executors import encoder_pool
from pipeline.learning.feed import Feed, Plan, arriving
from pipeline.runtime.ray_data import Share, set_up_ray_data

COST = {"num_cpus": 0.5}  # of a decoding task
_DECODE_NODES, _STORE = 4, 256 * 2**20


class _Watch:
    def saw(self, *_: Any) -> None:
        """Of a training that ends with the benchmark."""


@ray.remote(num_cpus=0)
class Consumer:
    """A training worker that takes no time."""

    def __init__(self, plan: Plan, rank: int, world: int) -> None:
        batches = arriving(plan.fed(0, rank, world))
        self._feed = Feed(batches, 0, rank, world, _Watch())  # type: ignore[arg-type]
        self._end, self._world = 0, world

    def take(self, slots: int) -> float:
        """Seconds until so many more slots came."""
        began = time.monotonic()
        self._end += slots * self._world
        for _ in self._feed.until(self._end):
            pass
        return time.monotonic() - began


def spent() -> dict[int, tuple[str, float]]:
    """Process below this one → its title and the processor time that it took so far."""
    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):
            title = " ".join(process.cmdline()[:1]).split(".")[0].partition("/")[0]
            times = process.cpu_times()
            found[process.pid] = (title or process.name(), times.user + times.system)
    return found


def busiest(before: dict[int, tuple[str, float]], clips: int) -> dict[str, float]:
    """Of each kind of process the one that took most: milliseconds a clip, of all clips."""
    most: dict[str, float] = defaultdict(float)
    for pid, (title, now) in spent().items():
        took = now - before.get(pid, ("", 0.0))[1]
        most[title] = max(most[title], round(1e3 * took / clips, 4))
    return {name: value for name, value in sorted(most.items()) if value >= 1e-4}


def slots_of(
    clips: ClipTable, options: argparse.Namespace, seconds: float = 0.0, num_slots: int = 0
) -> StubSlots:
    """A shuffled epoch; or so many slots of clips that are drawn again and again."""
    rng = np.random.default_rng(0)
    if num_slots:
        drawn = rng.integers(0, len(clips), num_slots * BATCH, np.int32)
    else:
        drawn = rng.permutation(len(clips)).astype(np.int32)
    boxed = Order(len(drawn), BATCH, [ray.put(drawn)])
    labels = {"audio": labels_of(len(clips))}
    given = (clips.publish(), boxed, config_of(options).clips, ("video", "audio"), None, labels)
    return StubSlots(*given, options.clip_bytes, seconds)


def config_of(options: argparse.Namespace) -> Config:
    config = Config(run="none")
    video = config.clips.video.model_copy(update={"size": options.size})
    clips = config.clips.model_copy(update={"video": video})
    return config.model_copy(update={"clips": clips})


@contextmanager
def consumers(slots: StubSlots, workers: int) -> Iterator[list[Any]]:
    batches = partial(slots.stream, COST)
    plan = Plan(batches, slots.order.num_slots, max_bytes=0, worker_cpus=0.0)
    each = [Consumer.remote(plan, rank, workers) for rank in range(workers)]
    yield each
    for consumer in each:
        ray.kill(consumer)


def fed(
    slots: StubSlots, workers: int, wanted: int, before_it: int = 16
) -> tuple[float, dict[str, float]]:
    """Clips a second of all workers together, and the processor time of the busiest processes.

    Args:
        wanted: slots that count.
        before_it: slots of each worker that do not: by default those after which all have begun,
            for what is decoded ahead of the window costs it nothing.
    """
    each = wanted // workers
    with consumers(slots, workers) as running:
        ray.get([c.take.remote(before_it) for c in running])
        before, clips = spent(), each * workers * BATCH
        seconds = max(ray.get([c.take.remote(each) for c in running]))
        return clips / seconds, busiest(before, clips)


def feed(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    # A small table's clips are drawn again and again: a short feed shows how processes start.
    again = 2 * options.slots if len(clips) < 2 * options.slots * BATCH else 0
    slots, found = slots_of(clips, options, num_slots=again), {}
    for workers in (1, 2, 4, 8):
        rate, took = fed(slots, workers, options.slots)
        found[f"workers: {workers}"] = {"clips_per_s": round(rate), "ms_a_clip": took}
        print(workers, found[f"workers: {workers}"], flush=True)
    return found | {"slots_a_task": slots.together(slots.order.num_slots)}


def order(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    """Of slots that take 0.2 s each, on 8 logical CPUs: the processors are not the limit."""
    slots = slots_of(clips, options, seconds=0.2, num_slots=1_000_000)
    rates: dict[str, list[float]] = {"in order": [], "in any order": []}
    wanted = options.slots // 5  # of which 16 are decoded at once
    for _ in range(options.repeats):
        rates["in order"].append(fed(slots, 1, wanted, wanted // 4)[0])
        set_up_ray_data(feeding=True)
        rows = iter(slots.stream(COST).iter_batches(batch_size=1, prefetch_batches=2))
        each = slots.together(slots.order.num_slots)
        for _ in range(wanted // 4 // each):
            next(rows)
        began, taken = time.monotonic(), wanted // each
        for _ in range(taken):
            next(rows)
        rates["in any order"].append(taken * each * BATCH / (time.monotonic() - began))
        del rows  # its executor would decode beside the next pair
        print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    pairs = zip(rates["in order"], rates["in any order"])
    return {
        "slots": slots.order.num_slots,
        **{name: [round(value) for value in values] for name, values in rates.items()},
        "ratio": [round(ours / free, 3) for ours, free in pairs],
    }


@ray.remote(num_cpus=0)
class Part:
    """One of several datasets of an embedding pass (`executors.embed_part`), without a sink."""

    def __init__(self, slots: StubSlots, some: np.ndarray, config: Config, share: Share) -> None:
        set_up_ray_data(share=share)
        actors = config.embedding.model_copy(update={"max_actors": share.datasets})
        pool = encoder_pool(config.model_copy(update={"embedding": actors}), share.datasets)
        stream = slots.stream(COST, some)
        encoded = stream.map_batches(Nothing, batch_size=1, compute=pool, num_cpus=0.51)
        self._rows = iter(encoded.iter_batches(batch_size=None))

    def take(self, clips: int) -> float:
        """Seconds until so many more clips came."""
        began, done = time.monotonic(), 0
        while done < clips:
            done += next(self._rows)["clip_index"].size
        return time.monotonic() - began


def embed(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    config, found = config_of(options), {}
    whole = Order(len(clips), config.embedding.batch_size)
    slots = StubSlots(
        clips.publish(), whole, config.clips, ("video", "audio"), clip_bytes=options.clip_bytes
    )
    for datasets in (1, 2, 4):
        parts = np.array_split(np.arange(whole.num_slots), datasets)
        share = Share(datasets, held_cpus=0)
        running = [Part.remote(slots, part, config, share) for part in parts]
        each = min(options.slots * BATCH, len(clips) // 2) // datasets
        ray.get([part.take.remote(1) for part in running])  # until all have begun
        before = spent()
        seconds = max(ray.get([part.take.remote(each) for part in running]))
        done = each * datasets
        found[f"datasets: {datasets}"] = {
            "clips_per_s": round(done / seconds),
            "ms_a_clip": busiest(before, done),
        }
        print(datasets, found[f"datasets: {datasets}"], flush=True)
        for part in running:
            ray.kill(part)
    return found | {"slots_a_task": slots.together(whole.num_slots)}


def nodes(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    """Four decode nodes of 256 MB beside the head: the most that each store held."""
    ray.shutdown()
    head = {"num_cpus": 0, "object_store_memory": store_bytes(options.clips)}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(_DECODE_NODES):
        cluster.add_node(num_cpus=2, object_store_memory=_STORE)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        slots, over, most = slots_of(clips, options), threading.Event(), [0] * (1 + _DECODE_NODES)
        spilled = 0

        def watch() -> None:
            nonlocal spilled
            places = [(n["NodeManagerAddress"], n["NodeManagerPort"]) for n in ray.nodes()]
            while not over.wait(0.5):
                stores = [node_stats(*place, False).store_stats for place in places]
                most[:] = map(max, most, sorted(s.object_store_bytes_used for s in stores))
                spilled = max(spilled, *(s.spilled_bytes_total for s in stores))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with consumers(slots, 2) as running:
            ray.get([c.take.remote(options.slots // 2) for c in running])
        over.set()
        watcher.join()
        mb = [round(value / 1e6) for value in most]
        return {"head_mb": mb[-1], "decode_nodes_mb": mb[:-1], "spilled_mb": round(spilled / 1e6)}
    finally:
        ray.shutdown()
        cluster.shutdown()
