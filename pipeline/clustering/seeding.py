"""Initial centroids."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pipeline.clustering.blocks import Ordinals, generator


class Shards(Protocol):
    """All shards of a clustering, wherever they live."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The method's answer of every shard, in order of blocks."""

    def fetch(self, places: np.ndarray) -> np.ndarray:
        """float16[m, d] of rows given as int64[m, 2] (block, row)."""


def seed_centroids(
    shards: Shards, ordinals: Ordinals, k: int, init: str, seed: int, restart: int
) -> np.ndarray:
    """float32[k, d], a function of the vectors, ``seed`` and ``restart`` alone."""
    return random_points(shards, ordinals, k, generator(seed, "seeding", restart))


def random_points(
    shards: Shards, ordinals: Ordinals, k: int, random: np.random.Generator
) -> np.ndarray:
    """k distinct rows, each set of rows equally likely."""
    chosen = random.choice(ordinals.total, k, replace=False, shuffle=True)
    return shards.fetch(ordinals.locate(chosen)).astype(np.float32)
