"""One contender of `kmeans.py` in a process of its own: an iteration whenever a line comes in.

Contenders take turns, iteration by iteration, while all are loaded, so that other load on the
machine meets them alike. Answers are lines of JSON. The first, empty, says that the vectors are
read; another empty one, that k-means has converged.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from kmeans_vectors import read

from pipeline.clustering.blocks import generator
from pipeline.config import ClusteringConfig
from pipeline.storage import Location

Answers = Iterator[dict[str, float]]


def faiss(folder: str, k: int, iterations: int) -> Answers:
    """faiss's own k-means in one process, float32, from the rows that seed 0 draws."""
    import faiss as library

    library.omp_set_num_threads(threads())
    x = read(folder)
    centroids = x[generator(0, "seeding", 0).choice(len(x), k, replace=False, shuffle=True)]
    yield {}
    for _ in range(iterations):
        kmeans = library.Kmeans(
            x.shape[1], k, niter=1, max_points_per_centroid=len(x), check_input_data_for_NaNs=False
        )
        began = time.perf_counter()
        kmeans.train(x, init_centroids=centroids)
        yield {"seconds": time.perf_counter() - began, "objective": float(kmeans.obj[0])}
        centroids = kmeans.centroids


def process(folder: str, k: int, iterations: int, device: str = "cpu") -> Answers:
    """The package's k-means in one process, with as many threads as faiss gets."""
    from pipeline.clustering.index import LocalShard
    from pipeline.clustering.kmeans import KMeans
    from pipeline.clustering.shard import Shard
    from pipeline.clustering.vectors import ShardSpec

    task, blocks = described(folder, k, iterations)
    more: dict[str, Any] = {"threads": threads(), "device": device}
    if hasattr(ShardSpec, "products"):  # --before
        more["products"] = iterations * k
    spec = ShardSpec(task.features, blocks, 0, blocks.count, task.out, 8 << 30, **more)
    kmeans = KMeans(task, LocalShard(Shard(spec)))
    for _ in range(2):  # loading, seeding
        kmeans.advance()
    yield {}
    for _ in range(iterations):
        began = time.perf_counter()
        progress = kmeans.advance()
        if progress.objective is None:
            yield {}  # no centroid moved in the last iteration
            return
        yield {"seconds": time.perf_counter() - began, "objective": progress.objective}


def gpu(folder: str, k: int, iterations: int) -> Answers:
    return process(folder, k, iterations, "cuda")


def actors(folder: str, k: int, iterations: int) -> Answers:
    """The whole thing on Ray: two shard actors of one core each."""
    import ray

    from pipeline import clustering

    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300_000_000,
        log_to_driver=False,
    )
    steps: queue.Queue[float | None] = queue.Queue()
    wanted = threading.Semaphore(0)

    def hold(progress: Any) -> None:
        """Called on the driver after every step: the next iteration waits until it is wanted."""
        if progress.stage != "loading":
            steps.put(progress.objective)
            wanted.acquire()

    task, _ = described(folder, k, iterations)

    def run() -> None:
        try:
            if hasattr(clustering, "ClusteringTask"):
                clustering.cluster(task, on_progress=hold)
            else:  # --before
                clustering.cluster(**vars(task), on_progress=hold)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()
    steps.get()
    yield {}
    for _ in range(iterations):
        began = time.perf_counter()
        wanted.release()
        objective = steps.get()
        if objective is None:
            yield {}
            return
        yield {"seconds": time.perf_counter() - began, "objective": objective}


def described(folder: str, k: int, iterations: int) -> tuple[Any, Any]:
    """The task and its blocks."""
    try:
        from pipeline.clustering.blocks import ClipBlocks
        from pipeline.clustering.problem import ClusteringTask
    except ImportError:  # --before
        from pipeline.clustering.task import Task as ClusteringTask

        from pipeline.clustering.blocks import Blocks as ClipBlocks
    place = Location.of(folder)
    features = (place / "features",)
    n = sum(len(part.read_table(["clip_index"])) for part in features[0].files(".parquet"))
    settings = ClusteringConfig(k=k, iterations=iterations, pca_dim=0, whiten=False, shards=2)
    task = ClusteringTask(features, n, None, settings, 0, place / f"out-{os.getpid()}")
    return task, ClipBlocks(n, settings.block_size)


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


if __name__ == "__main__":
    name, where, clusters, count = sys.argv[1:]
    for answer in globals()[name](where, int(clusters), int(count)):
        print(json.dumps(answer), flush=True)
        if not sys.stdin.readline():
            break
