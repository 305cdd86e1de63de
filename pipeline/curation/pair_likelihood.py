"""How much likelier than chance a clip's pair of clusters is, of its picture and of its sound.

A dubbed clip has a picture of one thing and the sound of another, music alone goes with any
picture, and a still picture with any sound: such pairs are no likelier than chance, or less.
"""

from __future__ import annotations

import numpy as np

from pipeline.clustering.measures import contingency

_CLIPS = 1 << 22  # looked up at once


def pair_likelihood(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [n], nats: log of (others in its cell + 1) over (those by chance + 1); NaN: no pair.

    The clip itself is left out of every count, because it would speak for itself. The one that is
    added on both sides draws cells in which little is expected towards 0, which is chance.

    Args:
        first, second: int32 [n] labels of the same clips, negative: none.
    """
    cells = contingency(first, second).tocoo()
    row, column = cells.coords
    total, rows, columns = cells.sum(), cells.sum(axis=1), cells.sum(axis=0)
    expected = (rows[row] - 1) * (columns[column] - 1) / max(total - 1, 1)
    score = np.log(cells.data / (expected + 1)).astype(np.float32)
    key = row.astype(np.int64) * cells.shape[1] + column
    order = np.argsort(key)
    key, score = key[order], score[order]
    both = (first >= 0) & (second >= 0)
    rank, other = (_places(labels[both]) for labels in (first, second))
    found = np.full(len(first), np.nan, np.float32)
    for at in range(0, len(first), _CLIPS):
        some = slice(at, at + _CLIPS)
        a, b = (labels[some][both[some]] for labels in (first, second))
        found[some][both[some]] = score[np.searchsorted(key, rank[a] * cells.shape[1] + other[b])]
    return found


def _places(labels: np.ndarray) -> np.ndarray:
    """Place of each label in a contingency table, which leaves out those without clips."""
    return np.cumsum(np.bincount(labels, minlength=1) > 0) - 1
