"""What k-means takes at scale, and what labels take to reach all readers of a node.

Sections of `kmeans.py` that run in a process of their own: the result is a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from kmeans_vectors import write_features

from pipeline.storage import Location


def scale(folder: str, n: str, d: str, k: str, budget: str) -> dict[str, Any]:
    """Seconds per iteration of two shard actors over vectors on disk, and memory of all processes.

    Memory is private plus shared pages that are not of files (the page cache is the kernel's to
    take back), summed over this process and all actors, sampled while it runs.
    """
    import threading

    import psutil
    import ray

    from pipeline.clustering import ClusteringTask, KMeansProgress, cluster
    from pipeline.config import ClusteringConfig

    write_features(Path(folder), "mixture", int(n), int(d), int(k))
    os.environ["TMPDIR"] = folder  # where shards map what is beyond their memory
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
    steps: list[KMeansProgress] = []
    place = Location.of(folder)
    config = ClusteringConfig(k=int(k), iterations=5, pca_dim=0, max_memory_mb=int(budget))
    task = ClusteringTask((place / "features",), int(n), None, config, 0, place / "out")
    clustering = cluster(task, on_progress=steps.append)
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
