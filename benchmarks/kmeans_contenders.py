"""What `kmeans.py` runs in processes of their own: one contender, its result as a line of JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.storage import Location


def make(folder: str, data: str, n: str, d: str, k: str) -> dict[str, Any]:
    """Vectors of length 1 as float16 feature files, and initial centroids."""
    rows, dim, clusters = int(n), int(d), int(k)
    if data == "encoder":
        write_encoded(Path(folder), rows, dim)
    else:
        write_features(Path(folder), data, rows, dim, clusters)
    return {"rows": rows}


def write_encoded(folder: Path, n: int, d: int) -> None:
    """What a random ResNet-18 (512 numbers) makes of windows of the shared media's real sound.

    Principal components of it where fewer numbers are asked for. Encoded once, kept beside.
    """
    kept = Path(tempfile.gettempdir()) / f"xdc-encoded-{n}.npy"
    if not kept.exists():
        np.save(kept, encoded_sound(n))
    x = np.load(kept)
    x -= x.mean(axis=0)
    if d < x.shape[1]:
        _, _, components = np.linalg.svd(x[:20_000], full_matrices=False)
        x = x @ components[:d].T
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    step = 1 << 16
    for number, start in enumerate(range(0, n, step)):
        some = x[start : start + step].astype(np.float16)
        values = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), d)
        table = pa.table({"clip_index": np.arange(start, start + len(some)), "features": values})
        (Location.of(folder) / "features" / f"part-{number:05d}.parquet").write_table(table)


def encoded_sound(n: int) -> np.ndarray:
    """float32 [n, 512] of random windows of 1 s."""
    import torch

    from pipeline import encoders
    from pipeline.clips.decoding.decode import ClipRequest, decode_clips
    from pipeline.clips.frontend import LogMel
    from pipeline.config import AudioConfig, ClipsConfig, EncoderConfig

    torch.set_num_threads(threads())
    media = Path(__file__).resolve().parents[2] / "shared" / "media"
    whole = ClipsConfig(audio=AudioConfig(window_s=3.0))
    files = sorted((media / "words" / "sentences").glob("*.mp4")) + sorted(
        (media / "esc").rglob("*.ogg")
    )
    waves = []
    for file in files:
        (clip,) = decode_clips(Location.of(file), [ClipRequest(1.5, 256, video=False)], whole)
        waves.append(clip.audio)
    config = AudioConfig(window_s=1.0)
    front = LogMel(config)
    network = encoders.build(EncoderConfig(audio="resnet18", video="r2plus1d_small"), seed=0)[
        "audio"
    ].train()
    random = np.random.default_rng(0)
    out = np.empty((n, 512), np.float32)
    with torch.inference_mode():
        for start in range(0, n, 256):
            count = min(256, n - start)
            file, at = random.integers(len(waves), size=count), random.integers(32_000, size=count)
            batch = np.stack([waves[f][a : a + config.samples] for f, a in zip(file, at)])
            out[start : start + count] = network(front(torch.from_numpy(batch))).numpy()
    return out


def write_features(folder: Path, data: str, n: int, d: int, k: int) -> None:
    """``mixture``: 2k Gaussians, as wide as half the distance between their centres; ``noise``."""
    centres = np.random.default_rng(0).standard_normal((2 * k, d)).astype(np.float32)
    step = 1 << 16
    for number, start in enumerate(range(0, n, step)):
        random = np.random.default_rng([1, number])
        count = min(step, n - start)
        x = random.standard_normal((count, d), dtype=np.float32)
        if data == "mixture":
            x += centres[random.integers(2 * k, size=count)]
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float16).ravel()), d)
        table = pa.table({"clip_index": np.arange(start, start + count), "features": values})
        (Location.of(folder) / "features" / f"part-{number:05d}.parquet").write_table(table)


def config(k: int, iterations: int, **more: Any) -> Any:
    from pipeline.config import ClusteringConfig

    settings = {"k": k, "iterations": iterations, "pca_dim": 0, "whiten": False} | more
    return ClusteringConfig(**settings)


def read(folder: str) -> np.ndarray:
    """float32[n, d], the very numbers that are clustered: L2 in float16."""
    from pipeline.clustering.transform import Transform

    tables = (Location.of(folder) / "features").read_table(["features"])["features"]
    parts = [
        np.asarray(c.flatten().to_numpy(zero_copy_only=False)).reshape(len(c), -1)
        for c in tables.chunks
    ]
    transform = Transform.fit((parts[0].shape[1],), 1.0, None, config(1, 1))
    return np.concatenate([transform(part).astype(np.float32) for part in parts])


def initial(n: int, k: int) -> np.ndarray:
    """The ordinals that seed 0 draws, for contenders that are given their centroids."""
    from pipeline.clustering.blocks import generator

    return generator(0, "seeding", 0).choice(n, k, replace=False, shuffle=True)


def faiss(folder: str, k: str, iterations: str) -> dict[str, Any]:
    import faiss as library

    library.omp_set_num_threads(threads())
    x = read(folder)
    index = initial(len(x), int(k))
    kmeans = library.Kmeans(
        x.shape[1], int(k), niter=int(iterations), max_points_per_centroid=len(x)
    )
    clock = Clock()
    kmeans.train(x, init_centroids=x[index])
    return clock.read() | {"objective": [float(v) for v in kmeans.obj]}


def sklearn(folder: str, k: str, iterations: str) -> dict[str, Any]:
    from sklearn.cluster import KMeans

    x = read(folder)
    start = x[initial(len(x), int(k))]
    kmeans = KMeans(int(k), init=start, n_init=1, max_iter=int(iterations), tol=0)
    clock = Clock()
    kmeans.fit(x)
    objective = [float(kmeans.inertia_)] * kmeans.n_iter_
    return clock.read() | {"objective": objective}


def ours(folder: str, k: str, iterations: str, device: str = "cpu") -> dict[str, Any]:
    """All iterations in one process, with as many threads as the others get."""
    from pipeline.clustering.blocks import Blocks
    from pipeline.clustering.index import LocalShard
    from pipeline.clustering.kmeans import KMeans
    from pipeline.clustering.shard import Shard
    from pipeline.clustering.task import Task
    from pipeline.clustering.vectors import ShardSpec

    place = Location.of(folder)
    features = (place / "features",)
    n = sum(len(part.read_table(["clip_index"])) for part in features[0].files(".parquet"))
    settings = config(int(k), int(iterations))
    blocks = Blocks(n, settings.block_size)
    out = Location.of(f"{folder}/out-{device}")
    spec = ShardSpec(
        features, blocks, 0, blocks.count, out, 8 << 30,
        threads=threads(), device=device, products=int(iterations) * int(k),
    )  # fmt: skip
    shard = Shard(spec)
    kmeans = KMeans(Task(features, n, None, settings, 0, out), LocalShard(shard))
    seconds, processor = [], []
    objective: list[float] = []
    while kmeans.result is None and len(objective) < int(iterations):
        clock = Clock()
        progress = kmeans.advance()
        if progress.stage == "iterating":
            took = clock.read()
            seconds.append(took["seconds"])
            processor.append(took["cpu_seconds"])
            assert progress.objective is not None
            objective.append(progress.objective)
    flops = 2.0 * n * int(k) * shard.vectors.dim * len(seconds)
    screens = shard._screens
    peak = sgemm_peak()
    return {
        "seconds": sum(seconds),
        "cpu_seconds": sum(processor),
        "per_iteration": seconds,
        "objective": objective,
        "gflops": flops / sum(seconds) / 1e9,
        "sgemm_peak_gflops": peak,
        "of_sgemm_peak": flops / sum(seconds) / 1e9 / peak,
        "screen_cost": screens.cost if screens else {},
    }


class Clock:
    """Wall-clock and processor seconds since it was made; the latter tell less of other load."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, processor = self.began
        return {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - processor,
        }


def sgemm_peak() -> float:
    """GFLOP/s of numpy's float32 product on all threads, large square matrices."""
    from threadpoolctl import threadpool_limits

    a = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    best = 0.0
    with threadpool_limits(threads(), "blas"):
        for _ in range(4):
            began = time.perf_counter()
            a @ a
            best = max(best, 2 * 4096**3 / (time.perf_counter() - began) / 1e9)
    return best


def threads() -> int:
    import os

    return int(os.environ["OMP_NUM_THREADS"])


def actors(folder: str, k: str, iterations: str, count: str) -> dict[str, Any]:
    """The iterations of the whole thing on Ray, with ``count`` shard actors on two cores."""
    import ray

    from pipeline.clustering import Progress, cluster

    shards = int(count)
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=500_000_000)
    features = [Location.of(folder) / "features"]
    n = sum(len(part.read_table(["clip_index"])) for part in features[0].files(".parquet"))
    steps: list[Progress] = []
    cpus = 2.0 if shards == 1 else 1.0
    clustering = cluster(
        features,
        num_clips=n,
        clips=None,
        config=config(int(k), int(iterations), shards=shards, cpus_per_shard=cpus),
        seed=0,
        out=Location.of(f"{folder}/out-{shards}"),
        on_progress=steps.append,
    )
    taken = dict.fromkeys(("loading", "seeding", "iterating", "labelling", "done"), 0.0)
    for step in steps:
        taken[step.stage] += step.seconds
    result = {
        "seconds": taken["iterating"],
        "per_iteration": [step.seconds for step in steps if step.stage == "iterating"],
        "stages": taken,
        "objective": clustering.objective,
    }
    clustering.close()
    ray.shutdown()
    return result


def scale(folder: str, n: str, d: str, k: str, budget: str) -> dict[str, Any]:
    """Seconds per iteration of two shard actors over vectors on disk, and memory of all processes.

    Memory is private plus shared pages that are not of files (the page cache is the kernel's to
    take back), summed over this process and all actors, sampled while it runs.
    """
    import threading

    import psutil
    import ray

    from pipeline.clustering import Progress, cluster

    write_features(Path(folder), "mixture", int(n), int(d), int(k))
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=200_000_000)
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    title = " ".join(process.cmdline()[:1])
                    if title.startswith(("ray::Shard", "ray::Index")) or process.pid == me:
                        total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 2**20)

    me = psutil.Process().pid
    watcher = threading.Thread(target=watch)
    watcher.start()
    steps: list[Progress] = []
    clustering = cluster(
        [Location.of(folder) / "features"],
        num_clips=int(n),
        clips=None,
        config=config(int(k), 5, shards=2, memory_budget_mb=int(budget), scratch=folder),
        seed=0,
        out=Location.of(f"{folder}/out"),
        on_progress=steps.append,
    )
    over.set()
    watcher.join()
    each = [step.seconds for step in steps if step.stage == "iterating"]
    clustering.close()
    ray.shutdown()
    return {
        "n": int(n),
        "d": int(d),
        "k": int(k),
        "seconds_per_iteration": min(each),
        "per_iteration": each,
        "loading_seconds": next(s.seconds for s in steps if s.stage == "loading"),
        "budget_mb_per_shard": int(budget),
        "peak_rss_mb": peak[0],
    }


def labels(n: str, workers: str) -> dict[str, Any]:
    """One int32 array put once and read by several actors of one node."""
    import ray

    ray.init(num_cpus=int(workers), include_dashboard=False, object_store_memory=600_000_000)

    @ray.remote(num_cpus=0.5)
    class Reader:
        def ready(self) -> None:
            pass

        def read(self, box: list[Any]) -> dict[str, float]:
            import psutil

            private = psutil.Process().memory_full_info().uss
            began = time.perf_counter()
            value = ray.get(box[0])
            first = int(value[len(value) // 2])
            seconds = time.perf_counter() - began
            more = psutil.Process().memory_full_info().uss - private
            return {"seconds": seconds, "private_mb": more / 2**20, "value": first}

    readers = [Reader.remote() for _ in range(int(workers))]
    ray.get([r.ready.remote() for r in readers])
    array = np.arange(int(n), dtype=np.int32)
    began = time.perf_counter()
    reference = ray.put(array)
    put = time.perf_counter() - began
    found = ray.get([r.read.remote([reference]) for r in readers])
    free, total = (ray.available_resources(), ray.cluster_resources())
    used = total["object_store_memory"] - free.get("object_store_memory", 0.0)
    ray.shutdown()
    return {
        "n": int(n),
        "workers": int(workers),
        "put_seconds": put,
        "first_use_seconds": [f["seconds"] for f in found],
        "private_mb": [f["private_mb"] for f in found],
        "array_mb": array.nbytes / 2**20,
        "store_mb": used / 2**20,
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
