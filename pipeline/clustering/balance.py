"""Clusters of like sizes: Sinkhorn's potentials as SeLaVi and SwAV use them, or a hard cap.

Both change nothing but a bias per centroid that is added to its scores, so that labels stay a
pure function of (row, centroids, bias) and k numbers are all that shards need to be told.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.clustering.assign import widen
from pipeline.clustering.blocks import snap

SINKHORN_STRENGTH = 20.0  # inverse temperature on inner products (SeLaVi, SwAV)
SINKHORN_PASSES = 3  # over the data, after every iteration


def soft_sizes(x: np.ndarray, matrix: np.ndarray, taken: np.ndarray, num_clips: int) -> np.ndarray:
    """Column sums of softmax(`SINKHORN_STRENGTH` * scores) over the rows of one block, snapped.

    Args:
        x: float16[n, d].
        matrix: float32[d, k], the centroids.
        taken: float64[k], what is taken from the inner products (`assign.offsets`).
        num_clips: bounds the totals.
    """
    total = np.zeros(len(taken))
    rows = max(1, (1 << 21) // len(taken))
    for at in range(0, len(x), rows):
        score = widen(x[at : at + rows]) @ matrix
        score -= taken.astype(np.float32)
        score -= score.max(axis=1, keepdims=True)
        score *= np.float32(SINKHORN_STRENGTH)
        np.exp(score, out=score)
        score /= score.sum(axis=1, keepdims=True)
        total += score.sum(axis=0, dtype=np.float64)
    return snap(total, num_clips)


def sinkhorn_bias(
    bias: np.ndarray, sizes: Callable[[np.ndarray], np.ndarray], total: int
) -> np.ndarray:
    """Move the potentials towards equal soft sizes (Cuturi 2013; YM. Asano et al. 2020).

    Rows are normalised by the softmax, columns by the potentials: ``bias += log(target / size) /
    strength``, a few times, starting from the potentials of the iteration before.

    Args:
        bias: float64[k].
        sizes: soft sizes float64[k] of all rows under a bias.
        total: rows.
    """
    target = total / len(bias)
    for _ in range(SINKHORN_PASSES):
        soft = np.maximum(sizes(bias), 1e-6 * target)
        bias = bias + np.log(target / soft) / SINKHORN_STRENGTH
        bias -= bias.max()
    return bias


def price(bias: np.ndarray, counts: np.ndarray, cap: int, spread: float) -> np.ndarray:
    """Make centroids beyond the cap dearer, and cheaper again as they empty, at most to zero.

    A dual ascent on the sizes: it only has to bring most clusters under the cap, what is left over
    is moved at the end (`move_overflow`).

    Args:
        bias: float64[k], zero or negative.
        counts: int64[k] under it.
        cap: largest size allowed.
        spread: mean squared distance to the centroids: the unit that scores vary in.
    """
    step = 0.25 * spread * np.log(np.maximum(counts, 1) / cap)
    return np.minimum(0.0, bias - step)


def move_overflow(
    labels: np.ndarray,
    near: np.ndarray,
    cap: int,
    k: int,
    choose: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> None:
    """Bring every cluster under the cap by moving its farthest rows to the next with room.

    Args:
        labels: int32[N], -1 for none; changed in place.
        near: float32[N], distances; changed in place.
        cap: largest size allowed.
        k: clusters; ``k * cap`` is at least the number of rows.
        choose: labels and distances of clips int64[m] (ascending) among open clusters int64[c]:
            the nearest of those.
    """
    counts = np.bincount(labels[labels >= 0], minlength=k)
    room = np.maximum(cap - counts, 0)
    waiting = np.zeros(0, np.int64)
    for cluster in np.flatnonzero(counts > cap):
        clips = np.flatnonzero(labels == cluster)
        beyond = clips[np.argsort(near[clips], kind="stable")[cap:]]
        waiting = np.concatenate([waiting, beyond])
    while len(waiting):
        waiting.sort()
        chosen, distances = choose(waiting, np.flatnonzero(room))
        # Nearest first, then by clip index: as many to each cluster as it has room for.
        order = np.lexsort((waiting, distances, chosen))
        ranked = chosen[order]
        rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        placed = order[rank < room[ranked]]
        clips = waiting[placed]
        labels[clips], near[clips] = chosen[placed], distances[placed]
        room = room - np.bincount(chosen[placed], minlength=k)
        waiting = np.delete(waiting, placed)
