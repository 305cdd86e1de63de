"""A draw that takes as many clips of each branch of a hierarchy of clusters, where it has so many.

From the top: the wanted number is divided evenly over the clusters of the highest level. What a
cluster lacks is divided over the others. Then each share is divided over the clusters below in the
same way. Of a cluster of the lowest level clips are drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.clustering.blocks import generator


def even_shares(there: np.ndarray, wanted: int) -> np.ndarray:
    """int64 [n], shares of `wanted` as even as possible, none above what is `there`.

    What cannot be divided goes to those that have most, the first of equal ones.

    Args:
        there: int64 [n], together at least `wanted`.
    """
    order = np.argsort(there, kind="stable")
    ascending = there[order].astype(np.int64)
    # The most that can be given with every share up to the n-th size.
    before = np.cumsum(ascending) - ascending
    filled = before + ascending * np.arange(len(there), 0, -1)
    full = int(np.searchsorted(filled, wanted, side="right"))  # so many give all that they have
    shares = ascending.copy()
    if full < len(there):
        level, rest = divmod(wanted - int(before[full]), len(there) - full)
        shares[full:] = level
        shares[len(there) - rest :] += 1
    found = np.empty_like(shares)
    found[order] = shares
    return found


def quotas(there: np.ndarray, parents: Sequence[np.ndarray], wanted: int) -> np.ndarray:
    """int64 [k], how many clips of each cluster to draw, `wanted` together.

    Args:
        there: int64 [k] clips of each cluster, together at least `wanted`.
        parents: of each level, int [clusters of the level below].
    """
    sizes = [there]
    for above in parents:
        total = np.zeros(int(above.max()) + 1, np.int64)
        np.add.at(total, above, sizes[-1])
        sizes.append(total)
    shares = even_shares(sizes[-1], wanted)
    for above, below in zip(reversed(parents), reversed(sizes[:-1])):
        divided = np.zeros(len(below), np.int64)
        for cluster, share in enumerate(shares.tolist()):
            inside = np.flatnonzero(above == cluster)
            divided[inside] = even_shares(below[inside], share)
        shares = divided
    return shares


def draw(
    clips: np.ndarray, labels: np.ndarray, parents: Sequence[np.ndarray], wanted: int, seed: int
) -> np.ndarray:
    """bool [N], the clips that are drawn.

    A clip's random number follows from the seed and its index. So clips that come later change
    nothing for those that were there but their shares.

    Args:
        clips: bool [N], of which to draw, at least `wanted`.
        labels: int32 [N] clusters of the lowest level; those without one are a cluster, and a
            branch, of their own.
    """
    among = np.flatnonzero(clips)
    k = len(parents[0]) if parents else int(labels.max(initial=-1)) + 1
    cluster = np.where(labels[among] < 0, k, labels[among])
    for level, above in enumerate(parents):
        parents = [*parents[:level], np.append(above, above.max() + 1), *parents[level + 1 :]]
    sizes = np.bincount(cluster, minlength=k + 1)
    shares = quotas(sizes, parents, wanted)
    random = generator(seed, "draw").random(len(clips), np.float32)[among]
    order = np.lexsort((random, cluster))
    rank = np.arange(len(among)) - (np.cumsum(sizes) - sizes)[cluster[order]]
    drawn = np.zeros(len(clips), bool)
    drawn[among[order[rank < shares[cluster[order]]]]] = True
    return drawn
