"""Two clusterings against each other: of one round (across), or of one name and two rounds (flow).

Counts are of the sampled clips.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.optimize import linear_sum_assignment

from pipeline.clustering import measures
from pipeline.clustering.agreement import agreement

_CELLS = 20_000  # on the page, those with most clips
_EXAMPLES = 6  # clips of a cell


def counts(first: np.ndarray, second: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """int64 [rows, columns]: clips by pair of labels, which int32 [n] give; -1: none."""
    both = (first >= 0) & (second >= 0)
    pairs = first[both].astype(np.int64) * columns + second[both]
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def times_chance(table: np.ndarray) -> np.ndarray:
    """float64, how many times as many clips as if the two were independent; 0 where none can be."""
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    return np.divide(table * table.sum(), expected, out=np.zeros(table.shape), where=expected > 0)


def ordered(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order of rows and of columns in which what belongs together lies near the diagonal.

    Rows that share columns come one after the other (average linkage of their profiles). Columns
    follow the mean place of their clips' rows.
    """
    profile = np.sqrt(table / np.maximum(table.sum(axis=1, keepdims=True), 1))
    rows = np.arange(len(table))
    if len(table) > 2:
        rows = leaves_list(linkage(profile, "average"))
    place = np.empty(len(table))
    place[rows] = np.arange(len(table))
    weight = times_chance(table) * np.sqrt(table)
    mean = (weight * place[:, None]).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12)
    return rows, np.argsort(np.where(table.sum(axis=0) > 0, mean, np.inf), kind="stable")


def aligned(table: np.ndarray) -> np.ndarray:
    """An order of the rows in which each stands where its best column does (Hungarian matching)."""
    best, column = linear_sum_assignment(table, maximize=True)
    place = np.full(len(table), table.shape[1], np.int64)
    place[best] = column
    return np.argsort(place, kind="stable")


def across(
    names: tuple[str, str],
    labels: tuple[np.ndarray, np.ndarray],
    ks: tuple[int, int],
    sampled: np.ndarray,
    playable: np.ndarray,
) -> dict[str, Any]:
    """What the page shows of two clusterings of one round; rows are the first.

    Args:
        labels: int32 [n] of the shown clips; sampled, playable: bool [n].
    """
    first, second = labels
    table = counts(first[sampled], second[sampled], *ks)
    chance, (rows, columns) = times_chance(table), ordered(table)
    cells = _largest(table)
    return {
        "rows": {"name": names[0], "order": rows.tolist()},
        "columns": {"name": names[1], "order": columns.tolist()},
        "cells": [[r, c, int(table[r, c]), float(chance[r, c])] for r, c in cells],
        "examples": _examples(first, second, playable),
        "agreement": agreement(first[sampled], second[sampled]),
    }


def flow(
    before: np.ndarray, now: np.ndarray, ks: tuple[int, int], numbers: tuple[int, int]
) -> dict[str, Any]:
    """Where the sampled clips of each cluster went from one round to a later one."""
    table = counts(before, now, *ks)
    return {
        "from": numbers[0],
        "to": numbers[1],
        "cells": [[r, c, int(table[r, c])] for r, c in _largest(table)],
        "nmi": measures.normalized_mutual_information(before, now),
        "churn": measures.churn(before, now),
        "from_order": aligned(table).tolist(),
        "to_order": list(range(ks[1])),
    }


def _largest(table: np.ndarray) -> list[tuple[int, int]]:
    """Cells with clips, most first."""
    flat = table.ravel()
    order = np.argsort(-flat, kind="stable")[: min(int((flat > 0).sum()), _CELLS)]
    return list(zip(*(part.tolist() for part in np.unravel_index(order, table.shape))))


def _examples(first: np.ndarray, second: np.ndarray, playable: np.ndarray) -> dict[str, list[int]]:
    """Positions of some clips of each cell that can be played."""
    found: dict[str, list[int]] = {}
    for position in np.flatnonzero(playable & (first >= 0) & (second >= 0)).tolist():
        some = found.setdefault(f"{first[position]},{second[position]}", [])
        if len(some) < _EXAMPLES:
            some.append(position)
    return found
