"""Parts of scale.py: what is as long as the clips table, on the driver, the head and in shards."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipeline.clips.table import SCHEMA, ClipTable, append
from pipeline.clustering.assign import prepare_process
from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.shard import Shard
from pipeline.clustering.sums import ClusterSums
from pipeline.clustering.vectors import ShardSpec
from pipeline.config import LearningConfig
from pipeline.embedding.shards import REJECTS, as_feature_array, write_shard
from pipeline.embedding.written import Origin, Written, finish
from pipeline.learning.schedule import Schedule
from pipeline.storage import Location

PER_PART, PER_SHARD = 262_144, 16_384  # clips of a part of the table, and of features
K = 1024
_FEATURES, _DIM = 1_000_000, 512  # of `shards`


def table(clips: int, folder: Path) -> ClipTable:
    """A clips table of made-up rows, six clips a file."""

    def parts() -> Iterator[pa.Table]:
        for start in range(0, clips, PER_PART):
            number = np.arange(start, min(start + PER_PART, clips))
            n, texts = len(number), pa.array(number // 6).cast(pa.string())
            texts = pc.utf8_lpad(texts, 12, "0")
            made: dict[str, Any] = {
                "uri": pc.binary_join_element_wise("s3://bucket/videos/", texts, ".mp4", ""),
                "clip_id": pc.utf8_lpad(pa.array(number).cast(pa.string()), 16, "0"),
                "start_s": (number % 6) * 10.0,
                "end_s": (number % 6) * 10.0 + 10.0,
                "has_video": np.ones(n, bool),
                "has_audio": np.ones(n, bool),
                "size": np.full(n, 5_000_000),
                "etag": pc.binary_join_element_wise(texts, texts, texts, ""),
                "parts_kib": pa.ListArray.from_arrays(
                    pa.array(np.arange(0, 8 * n + 1, 8), pa.int32()),
                    pa.array(np.tile(np.arange(1, 9), n)),
                ),
            }
            columns = [
                pa.array(made[f.name]).cast(f.type) if f.name in made else pa.nulls(n, f.type)
                for f in SCHEMA
                if f.name != "clip_index"
            ]
            yield pa.table(columns, names=SCHEMA.names[1:])

    place = Location.of(folder / "clips")
    append(place, parts())
    return ClipTable.open(place)


def store_bytes(clips: int) -> int:
    """An object store for the clips table, labels and an epoch's order, with room for batches."""
    return max(4 << 30, (2 << 30) + 130 * clips)


def labels_of(clips: int) -> list[ray.ObjectRef]:
    rng = np.random.default_rng(0)
    return [ray.put(np.minimum(rng.zipf(1.3, clips), K).astype(np.int32) - 1)]


@ray.remote(num_cpus=0, max_calls=1)
def _alone(work: Any, *arguments: Any) -> tuple[Any, float, float]:
    """A result, its seconds, and the MB by which this fresh process grew at most."""
    before, began = _peak_mb(), time.monotonic()
    result = work(*arguments)
    return result, round(time.monotonic() - began, 2), round(_peak_mb() - before)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def published(clips: ClipTable, _: argparse.Namespace) -> dict[str, Any]:
    """What decoding needs of the table, in the object store of the driver's node."""

    def work() -> int:
        return sum(ray.get(ref).nbytes for ref in clips.publish().refs)

    size, seconds, grew = ray.get(_alone.remote(work))
    return {"seconds": seconds, "store_mb": round(size / 1e6), "driver_and_store_mb": grew}


def schedule(clips: ClipTable, _: argparse.Namespace) -> dict[str, Any]:
    """Drawing one epoch, in the task that does it."""
    from pipeline.learning import schedule as module

    labels = labels_of(len(clips))
    config = LearningConfig(batch_size=32, epochs=1)

    def work() -> int:
        drawn = module._draw._function(clips, [labels], True, config, (0, 1, 0))
        return sum(array.nbytes for array in drawn[1:])

    began = time.monotonic()
    drawn = Schedule.draw(clips, [labels], True, config, (0, 1, 0))
    ray.wait(drawn.order, fetch_local=False)
    whole = time.monotonic() - began
    size, _, grew = ray.get(_alone.remote(work))
    return {"seconds": round(whole, 2), "store_mb": round(size / 1e6), "task_mb": grew}


def bookkeeping(clips: ClipTable, _: argparse.Namespace) -> dict[str, Any]:
    """What an embedding pass that goes on reads of the records, and which clips it picks."""
    from pipeline.embedding import written as module

    with tempfile.TemporaryDirectory() as folder:
        place = Location.of(folder)
        out = {m: place / "features" / m for m in ("video", "audio")}
        origin = Origin({}, "", clips)
        noted = {m: origin.noted(m) for m in out}
        for start in range(0, len(clips) // 2, PER_SHARD):
            index = pa.array(np.arange(start, min(start + PER_SHARD, len(clips))))
            flags = {c: pa.array(np.full(len(index), c == "present")) for c in module._COLUMNS[1:]}
            record = pa.table({"clip_index": index, **flags})
            for m, to in out.items():
                module.write_record(to, f"part-x-{start:09d}.parquet", record, None, noted[m])

        def work() -> int:
            found = Written.before(out, place / "rejects", origin)
            wanted = np.flatnonzero(~found.banked).astype(np.int32)
            return int(np.count_nonzero(~found.done[wanted]))

        left, seconds, grew = ray.get(_alone.remote(work))
    return {"left": left, "seconds": seconds, "driver_mb": grew}


def shards(_: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    """A million clips' features that training kept, in no order: what one of 64 shards reads."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        place, found = Location.of(folder), {}
        features = place / "features" / "video"
        clips = rng.permutation(_FEATURES)
        values = rng.standard_normal((PER_SHARD, _DIM)).astype(np.float16)
        for start in range(0, _FEATURES, PER_SHARD):
            some = clips[start : start + PER_SHARD]
            columns = {
                "clip_index": pa.array(some),
                "video": as_feature_array(values[: len(some)], np.ones(len(some), bool)),
                "rejects": pa.nulls(len(some), REJECTS),
            }
            write_shard(features, "video", f"bank-{start:09d}.parquet", pa.table(columns), None)
        made = Origin({}, "", table(_FEATURES, Path(folder)))
        files = Written.before({"video": features}, place / "rejects", made)
        finish({"video": features}, files, made)
        size = sum(info.size for info in features.children() if info.is_file)
        for number in (16, 64, 256):
            blocks = ClipBlocks(_FEATURES, 4096 if number < 256 else 2048)
            first, last = blocks.split(number)[number // 2]
            spec = ShardSpec((features,), blocks, first, last, place, 8 << 30)
            before, began = _read_bytes(), time.monotonic()
            shard = Shard(spec)
            shard.survey()
            begin, end = blocks.clips(first, last)
            owned = size * (end - begin) / _FEATURES
            found[f"{number} shards"] = {
                "seconds": round(time.monotonic() - began, 2),
                "read_over_owned": round((_read_bytes() - before) / owned, 2),
                "read_over_all": round((_read_bytes() - before) / size, 3),
            }
    return found


def _read_bytes() -> int:
    return psutil.Process().io_counters().read_chars


def iteration(_: ClipTable, options: argparse.Namespace) -> dict[str, Any]:
    """What a k-means pass takes for a clip of 256 numbers, on one thread, in blocks of 4096."""
    rng, rows, dim, block = np.random.default_rng(0), 131_072, 256, 4096
    centres = rng.standard_normal((K, dim)) * 0.5
    x = centres[rng.integers(0, K, rows)] + rng.standard_normal((rows, dim))
    half = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    found = {}
    prepare_process()
    for k in (256, K):
        centroids, seconds, sums = centres[:k].astype(np.float32), [], ClusterSums(rows, dim)
        for _turn in range(4):
            began = time.monotonic()
            sums.begin(centroids, None, spherical=False)
            for start in range(0, rows, block):
                sums.add(slice(start, start + block), half[start : start + block])
            total, counts = sums.total()
            seconds.append(time.monotonic() - began)
            centroids = (total / np.maximum(counts, 1)[:, None]).astype(np.float32)
        found[f"k = {k}"] = round(min(seconds[1:]) / rows * 1e6, 3)
    return {"microseconds_a_clip": found}
