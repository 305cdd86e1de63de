"""What grows with the number of clips: ``python benchmarks/scale.py PART … [--clips N]``.

The real control path (Ray, storage, processes) over made-up tables; decoding, encoding and steps
are stubs of set size and time. Parts:

    schedule   drawing the batches of an epoch: seconds, memory of the task, bytes in the store
    feed       batches to 1, 2, 4 and 8 training workers that take no time: clips a second, and
               each process's processor time a clip
    order      one worker's batches in their order against any order, of a schedule of --clips
    embed      an encoder actor that takes no time: clips a second, the driver's time a clip

Adds to scale.json, by part and number of clips.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from pipeline.clips.slots import LABEL, Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import SCHEMA, ClipTable, append
from pipeline.config import Config, LearningConfig
from pipeline.learning.feed import DatasetEach, Plan, beginning
from pipeline.learning.schedule import Schedule
from pipeline.runtime.ray_data import set_up_ray_data
from pipeline.storage import Location
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
BOTH = ("video", "audio")
BATCH = 32  # clips of a training slot
PER_PART = 262_144
K = 1024


def table(clips: int, folder: Path) -> ClipTable:
    """A clips table of made-up rows, six clips a file."""

    def parts() -> Iterator[pa.Table]:
        for start in range(0, clips, PER_PART):
            number = np.arange(start, min(start + PER_PART, clips))
            n = len(number)
            uris = [f"s3://bucket/videos/{file:012d}.mp4" for file in number // 6]
            made: dict[str, Any] = {
                "uri": uris,
                "clip_id": [f"{one:016x}" for one in number],
                "start_s": (number % 6) * 10.0,
                "end_s": (number % 6) * 10.0 + 10.0,
                "has_video": np.ones(n, bool),
                "has_audio": np.ones(n, bool),
                "size": np.full(n, 5_000_000),
                "etag": [uri[-16:-4] * 3 for uri in uris],
                "parts_kib": [[1, 2, 3, 4, 5, 6, 7, 8]] * n,
            }
            columns = [
                pa.array(made[f.name], f.type) if f.name in made else pa.nulls(n, f.type)
                for f in SCHEMA
                if f.name != "clip_index"
            ]
            yield pa.table(columns, names=SCHEMA.names[1:])

    place = Location.of(folder / "clips")
    append(place, parts())
    return ClipTable.open(place)


@dataclass(frozen=True)
class Stub:
    """Stands where decoding would: a row of joined clips in, zeros out, after a while."""

    batch_size: int
    clip_bytes: int
    seconds: float

    def __call__(self, joined: pa.Table) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        rows = joined["clips"][0].as_py()
        clips = np.full(self.batch_size, -1)
        clips[: len(rows)] = [row["clip_index"] for row in rows]
        labels = {name: np.zeros(self.batch_size, np.int32) for name in (f"{LABEL}audio",)}
        found = {"video": np.zeros((self.batch_size, self.clip_bytes), np.uint8), **labels}
        found |= {"clip_index": clips, "slot": np.int64(joined["slot"][0].as_py())}
        return {name: np.asarray(value)[None] for name, value in found.items()}


@dataclass(frozen=True)
class StubSlots(Slots):
    clip_bytes: int = 1000
    seconds: float = 0.0

    @property
    def decode(self) -> Any:
        return Stub(self.order.batch_size, self.clip_bytes, self.seconds)


@ray.remote(num_cpus=0)
class Consumer:
    """A training worker that takes no time."""

    def __init__(self, iterator: ray.data.DataIterator) -> None:
        self._batches = iter(iterator.iter_batches(batch_size=1, prefetch_batches=2))

    def take(self, slots: int) -> float:
        """Seconds until so many more slots came."""
        began = time.monotonic()
        for _ in range(slots):
            next(self._batches)
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


def labels_of(clips: int) -> list[ray.ObjectRef]:
    rng = np.random.default_rng(0)
    return [ray.put(np.minimum(rng.zipf(1.3, clips), K).astype(np.int32) - 1)]


def schedule(clips: ClipTable, _: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    config = LearningConfig(batch_size=BATCH, epochs=1)
    drawn = Schedule.draw(clips, [labels_of(len(clips))], True, config, (0, 1, 0))
    arrays = [ray.get(boxed[0]) for boxed in (drawn.order, drawn.held_out, drawn.last)]
    seconds = time.monotonic() - began

    @ray.remote(num_cpus=0)
    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    return {
        "seconds": round(seconds, 2),
        "microseconds_a_clip": round(1e6 * seconds / len(clips), 3),
        "mb_in_the_store": round(sum(array.nbytes for array in arrays) / 1e6, 1),
        "mb_of_the_task": round(ray.get(peak.remote())),  # the same process, most likely
    }


def slots_of(clips: ClipTable, options: argparse.Namespace, seconds: float) -> StubSlots:
    order = ray.put(np.random.default_rng(0).permutation(len(clips)).astype(np.int32))
    boxed = Order(len(clips), BATCH, [order])
    labels = {"audio": labels_of(len(clips))}
    config = Config(run="none").clips
    return StubSlots(
        clips.publish(), boxed, config, BOTH, None, labels, options.clip_bytes, seconds
    )


def fed(slots: StubSlots, workers: int, wanted: int) -> tuple[float, dict[str, float]]:
    """Clips a second of all workers together, and the processor time of the busiest processes."""
    plan = Plan(
        partial(slots.stream, {"num_cpus": 0.5}),
        num_slots=slots.order.num_slots,
        max_bytes=0,
        worker_cpus=0.0,
    )
    node = ray.get_runtime_context().get_node_id()
    given = DatasetEach(plan).configure({"train": beginning(0)}, workers, None, [node] * workers)
    consumers = [Consumer.remote(g["train"]) for g in given]
    each = wanted // workers
    ray.get([c.take.remote(max(each // 4, 16)) for c in consumers])  # until all runs evenly
    before = spent()
    seconds = max(ray.get([c.take.remote(each) for c in consumers]))
    took = busiest(before, each * workers * BATCH)
    for consumer in consumers:
        ray.kill(consumer)
    return each * workers * BATCH / seconds, took


def feed(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    slots, found = slots_of(clips, options, seconds=0.0), {}
    for workers in (1, 2, 4, 8):
        rate, took = fed(slots, workers, options.slots)
        found[f"{workers} workers"] = {"clips_per_s": round(rate), "ms_a_clip": took}
        print(workers, found[f"{workers} workers"], flush=True)
    return found


def order(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    """Of slots that take 0.1 to 0.3 s each on the cores that there are."""
    slots = slots_of(clips, options, seconds=0.2)
    rates: dict[str, list[float]] = {"in order": [], "in any order": []}
    for _ in range(options.repeats):
        rates["in order"].append(fed(slots, 1, options.slots)[0])
        set_up_ray_data(feeding=True)
        dataset = slots.stream({"num_cpus": 0.5})
        batches = iter(dataset.iter_batches(batch_size=1, prefetch_batches=2))
        for _ in range(options.slots // 4):
            next(batches)
        began = time.monotonic()
        for _ in range(options.slots):
            next(batches)
        rates["in any order"].append(options.slots * BATCH / (time.monotonic() - began))
        print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    pairs = zip(rates["in order"], rates["in any order"])
    return {
        "slots": slots.order.num_slots,
        **{name: [round(value) for value in values] for name, values in rates.items()},
        "ratio": [round(ours / free, 3) for ours, free in pairs],
    }


class Nothing:
    """An encoder that takes no time: features of zeros."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        clips = batch["clip_index"][0]
        features = np.zeros((1, len(clips), 512), np.float16)
        return {"clip_index": clips[None], "features": features}  # one row, as `Encode` returns


def embed(clips: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    from pipeline.embedding.embed import _IN_FLIGHT, _SLOT_CLIPS

    config, length = Config(run="none").clips, options.slots * _SLOT_CLIPS
    boxed = Order(min(length, len(clips)), _SLOT_CLIPS)
    slots = StubSlots(clips.publish(), boxed, config, BOTH, None, {}, options.clip_bytes)
    set_up_ray_data()
    actors = ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=_IN_FLIGHT)
    encoded = slots.stream({"num_cpus": 0.5}).map_batches(
        Nothing, batch_size=1, compute=actors, num_cpus=0.51
    )
    taken, first = 0, boxed.length // 4
    for batch in encoded.iter_batches(batch_size=None):
        taken += batch["clip_index"].size
        if first and taken >= first:
            before, began, first, taken = spent(), time.monotonic(), 0, 0
    rate = taken / (time.monotonic() - began)
    return {"clips_per_s": round(rate), "ms_a_clip": busiest(before, taken)}


PARTS = {"schedule": schedule, "feed": feed, "order": order, "embed": embed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--slots", type=int, default=400, help="that are taken")
    parser.add_argument("--clip-bytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    root = str(RESULT.parents[1])
    os.environ["PYTHONPATH"] = root  # of Ray's processes
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=2 << 30)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        clips = table(options.clips, Path(folder))
        print(f"table of {options.clips:,} clips in {time.monotonic() - began:.0f} s", flush=True)
        for part in options.parts:
            result = PARTS[part](clips, options)
            print(part, json.dumps(result), flush=True)
            found.setdefault(part, {})[f"{options.clips:,} clips"] = result
    ray.shutdown()
    found["about"] = about("ray", "pyarrow", "numpy")
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
