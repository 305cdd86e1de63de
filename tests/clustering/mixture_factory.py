"""Gaussian mixtures, and clusterings of them without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clustering.blocks import ClipBlocks
from pipeline.clustering.index import added
from pipeline.clustering.kmeans import KMeans, KMeansProgress
from pipeline.clustering.problem import ClusteringTask
from pipeline.clustering.shard import Shard
from pipeline.clustering.vectors import ShardSpec
from pipeline.config import ClusteringConfig
from pipeline.storage import Location


def mixture(n: int, d: int, classes: int, seed: int = 0, spread: float = 0.3) -> np.ndarray:
    """float32[n, d] around ``classes`` random centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, d))
    members = random.integers(classes, size=n)
    return (centres[members] + spread * random.standard_normal((n, d))).astype(np.float32)


class Shards:
    """Several shards in this process, and the answers of a call in any order."""

    def __init__(self, specs: list[ShardSpec]):
        self.shards = [Shard(spec) for spec in specs]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        answers = [getattr(shard, method)(*arguments) for shard in reversed(self.shards)]
        return answers[::-1]

    def total(self, method: str, *arguments: Any) -> tuple[np.ndarray, ...]:
        return added(*self.call(method, *arguments)[::-1])


def run_here(
    features: list[Location],
    num_clips: int,
    out: Location,
    shards: int = 1,
    threads: int = 1,
    clips: Location | None = None,
    seed: int = 0,
    budget: int = 1 << 40,
    device: str = "cpu",
    **settings: Any,
) -> list[KMeansProgress]:
    """A clustering without Ray, in as many shards as asked for."""
    config = ClusteringConfig(**({"block_size": 64, "pca_dim": 0} | settings))
    blocks = ClipBlocks(num_clips, config.block_size)
    specs = [
        ShardSpec(
            tuple(features), blocks, first, last, out, budget,
            spherical=config.spherical, threads=threads, device=device,
        )
        for first, last in blocks.split(min(shards, blocks.count))
    ]  # fmt: skip
    task = ClusteringTask(tuple(features), num_clips, clips, config, seed, out)
    kmeans = KMeans(task, Shards(specs))
    steps = []
    while kmeans.result is None:
        steps.append(kmeans.advance())
    return steps


def files(out: Location) -> dict[str, bytes]:
    """What a finished clustering leaves, by relative path."""
    left = [info.path for info in out.children(recursive=True) if info.is_file]
    return {path.removeprefix(out.path): Path(path).read_bytes() for path in left}
