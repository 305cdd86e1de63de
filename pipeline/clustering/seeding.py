"""Initial centroids: random rows, k-means++ or k-means||."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pipeline.clustering.blocks import Ordinals, generator
from pipeline.clustering.shard import LostSpreadError

# Bahmani et al. 2012, "Scalable k-means++": oversampling 2k a round, five rounds.
_OVERSAMPLING = 2.0
_ROUNDS = 5


class Shards(Protocol):
    """All shards of a clustering, wherever they live."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The method's answer of every shard, in order of blocks."""

    def total(self, method: str, *arguments: Any) -> tuple[np.ndarray, ...]:
        """Sums over all shards of a method's answers, item by item."""


def fetch(shards: Shards, places: np.ndarray) -> np.ndarray:
    """float32[m, d] of rows given as int64[m, 2]: block of the clustering, row within it."""
    by_block = np.argsort(places[:, 0], kind="stable")
    rows = np.concatenate(shards.call("fetch", places[by_block]))
    return rows[np.argsort(by_block)].astype(np.float32)


def seed_centroids(
    shards: Shards, ordinals: Ordinals, k: int, init: str, seed: int, restart: int
) -> np.ndarray:
    """float32[k, d], a function of the vectors, ``seed`` and ``restart`` alone.

    - ``random``: k distinct rows; no pass over the data.
    - ``kmeans++``: each next row in proportion to its squared distance to those chosen (Arthur and
      Vassilvitskii 2007); k cheap passes, for k up to some hundreds.
    - ``kmeans||``: the same in five rounds of 2k candidates; for larger k.
    """
    while True:
        random = generator(seed, "seeding", restart)
        try:
            if init == "random":
                return random_points(shards, ordinals, k, random)
            if init == "kmeans++":
                seeds = plus_plus(shards, ordinals, k, random)
            else:
                seeds = parallel(shards, ordinals, k, random, (seed, restart))
        except LostSpreadError:
            continue  # a shard died on the way; the same numbers are drawn again
        rest = random_points(shards, ordinals, k - len(seeds), random)
        return np.concatenate([seeds, rest])


def random_points(
    shards: Shards, ordinals: Ordinals, k: int, random: np.random.Generator
) -> np.ndarray:
    """k distinct rows, each set of rows equally likely."""
    chosen = random.choice(ordinals.total, k, replace=False, shuffle=True)
    return fetch(shards, ordinals.locate(chosen))


def plus_plus(
    shards: Shards, ordinals: Ordinals, k: int, random: np.random.Generator
) -> np.ndarray:
    """k-means++ over all rows: float32[k, d], fewer where there are fewer distinct rows."""
    seeds = random_points(shards, ordinals, 1, random)
    while len(seeds) < k:
        totals = np.concatenate(shards.call("spread", seeds[-1:], len(seeds) - 1))
        ends = np.cumsum(totals)
        if ends[-1] == 0:
            break
        aim = random.random() * ends[-1]
        block = min(int(np.searchsorted(ends, aim, side="right")), len(ends) - 1)
        share = float(np.clip((aim - (ends[block] - totals[block])) / totals[block], 0, 1))
        seeds = np.concatenate([seeds, *shards.call("pick", block, share)])
    return seeds


def parallel(
    shards: Shards, ordinals: Ordinals, k: int, random: np.random.Generator, key: tuple[int, int]
) -> np.ndarray:
    """k-means||: candidates by the thousand, weighted by the rows nearest to them, then reduced.

    Args:
        key: seed and restart, on which the draws of shards depend.

    Returns:
        float32[k, d], fewer where fewer candidates were drawn.
    """
    fresh = candidates = random_points(shards, ordinals, 1, random)
    for turn in range(_ROUNDS):
        known = len(candidates) - len(fresh)
        total = float(np.concatenate(shards.call("spread", fresh, known)).sum())
        if total == 0:
            break
        factor = _OVERSAMPLING * k / total
        drawn = shards.call("oversample", factor, (*key, turn))
        fresh = fetch(shards, np.concatenate(drawn))
        candidates = np.concatenate([candidates, fresh])
    if len(candidates) <= k:
        return candidates
    weights = shards.total("step", candidates, None)[1]
    return weighted_plus_plus(candidates, weights, k, random)


def weighted_plus_plus(
    points: np.ndarray, weights: np.ndarray, k: int, random: np.random.Generator
) -> np.ndarray:
    """k of the points float32[m, d], k-means++ with weights float64[m]."""
    chosen = [int(random.choice(len(points), p=weights / weights.sum()))]
    least = np.full(len(points), np.inf)
    exact = points.astype(np.float64)
    norms = np.square(exact).sum(axis=1)
    while len(chosen) < k:
        last = chosen[-1]
        apart = norms + norms[last] - 2 * (exact @ exact[last])
        apart[apart < 1e-12 * (norms + norms[last])] = 0
        least = np.minimum(least, apart)
        mass = least * weights
        mass[chosen] = 0
        if mass.sum() == 0:
            left = np.setdiff1d(np.arange(len(points)), chosen)
            chosen += random.choice(left, k - len(chosen), replace=False).tolist()
            break
        chosen.append(int(random.choice(len(points), p=mass / mass.sum())))
    return points[chosen]
