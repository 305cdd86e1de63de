"""The clip stream through Ray Data against the same decoding in a bare pool of processes.

    python benchmarks/stream.py [--clips 4200] [--repeats 3]

Both decode the same slots on as many processes as there are cores and hand whole batches to one
consumer, which only counts them. Timed from the batch that ends the first quarter, so that neither
pays for its start. Contenders take turns; the ratio is of each one's best. Beside them Ray Data's
own ``read_videos`` over the same files: every frame in full size, without sound; and training
samples, drawn one by one and six of a file side by side. Writes
``benchmarks/stream.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import ray

from pipeline.clips.indexing import index
from pipeline.clips.slots import Order
from pipeline.clips.stream import Augment, Slots, batches_of
from pipeline.clips.table import DECODING_COLUMNS, ClipTable
from pipeline.config import Config
from pipeline.learning.schedule import beside_neighbours, file_numbers
from pipeline.runtime.placement import decoding
from pipeline.runtime.session import connect
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "stream.json"
BOTH = ("video", "audio")
READ_VIDEOS = 200  # files


@dataclass(frozen=True)
class LocalClips:
    """What `Slots` asks of the clips table, without Ray."""

    table: pa.Table
    store: None = None

    def take(self, indices: np.ndarray) -> pa.Table:
        return self.table.take(indices)


_SLOTS: Slots | None = None


def begin(slots: Slots) -> None:
    global _SLOTS
    _SLOTS = slots


def decode(slot: int) -> dict[str, np.ndarray]:
    assert _SLOTS is not None
    return _SLOTS.decoded(slot)


def pool(clips: ClipTable, order: Order, config: Config, cores: int) -> Iterator[dict[str, Any]]:
    table = pa.concat_tables(clips.read_parts(DECODING_COLUMNS)).combine_chunks()
    slots = Slots(LocalClips(table), order, config.clips, BOTH)  # type: ignore[arg-type]
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores, begin, (slots,)) as workers:
        yield from workers.imap_unordered(decode, range(order.num_slots))


def through_ray(clips: ClipTable, order: Order, config: Config, _: int) -> Iterator[dict[str, Any]]:
    slots = Slots(clips.publish(), order, config.clips, BOTH)
    for row in slots.stream(decoding(config.resources)).iter_batches(batch_size=1):
        yield from batches_of(row)


def training(clips: ClipTable, order: Order, config: Config, neighbours: int) -> float:
    """Clips a second of training samples, where so many clips of a file are drawn side by side."""
    rng = np.random.default_rng(0)
    drawn = rng.permutation(len(clips))[: order.length]
    drawn = drawn[beside_neighbours(file_numbers(clips)[drawn], neighbours, rng)]
    shuffled = Order(order.length, order.batch_size, [ray.put(drawn)])
    slots = Slots(clips.publish(), shuffled, config.clips, BOTH, Augment(0, 1))
    rows = slots.stream(decoding(config.resources)).iter_batches(batch_size=1)
    batches = chain.from_iterable(map(batches_of, rows))
    return rate(batches, order.num_slots, order.batch_size)


def rate(batches: Iterator[dict[str, Any]], slots: int, batch_size: int) -> float:
    """Clips a second, from the end of the first quarter on."""
    first = max(slots // 4, 1)
    for number, _ in enumerate(batches, start=1):
        if number == first:
            began = time.perf_counter()
    return (slots - first) * batch_size / (time.perf_counter() - began)


def read_videos(clips: ClipTable, order: Order) -> float:
    """Clips a second, were they cut out of what Ray Data's own reader yields at no cost."""
    table = pa.concat_tables(clips.read_parts(DECODING_COLUMNS)).slice(0, order.length)
    files = [urlparse(uri).path for uri in table["uri"].unique().to_pylist()][:READ_VIDEOS]
    covered = sum(urlparse(uri).path in files for uri in table["uri"].to_pylist())
    began = time.perf_counter()
    for _ in ray.data.read_videos(files).iter_batches(batch_size=None):
        pass
    return covered / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path, default=ROOT.parent / "shared" / "media")
    parser.add_argument("--clips", type=int, default=4200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    config = load(["configs/words.yaml", f"resources.local_cpus={cores}", "store.enabled=false"])
    connect(config.resources)
    contenders = {"pool": pool, "ray": through_ray}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        run = Location.of(folder)
        index(str(options.media.resolve() / "words" / "words.csv"), run, config)
        clips = ClipTable.open(run / "clips")
        batch = config.learning.batch_size
        order = Order(min(options.clips, len(clips)) // batch * batch, batch)
        for _ in range(options.repeats):
            for name, contender in contenders.items():
                batches = contender(clips, order, config, cores)
                rates[name].append(round(rate(batches, order.num_slots, batch), 1))
                print(name, rates[name][-1], "clips/s", flush=True)
        apart, beside = (round(training(clips, order, config, n), 1) for n in (1, 6))
        print("training samples", apart, "in groups of six", beside, "clips/s", flush=True)
        whole_files = round(read_videos(clips, order), 1)
        print("read_videos", whole_files, "clips/s", flush=True)
    ray.shutdown()
    best = {name: max(values) for name, values in rates.items()}
    report = {
        "about": about("ray", "av"),
        "clips": order.length,
        "batch_size": batch,
        "processes": cores,
        "clips_per_s": rates,
        "training_clips_per_s": {"neighbours=1": apart, "neighbours=6": beside},
        "read_videos_clips_per_s": whole_files,
        "ratio_ray_to_pool": round(best["ray"] / best["pool"], 3),
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["ratio_ray_to_pool"]))


if __name__ == "__main__":
    main()
