"""How good, how even and how stable clusters are.

Every measure takes labels int[n] in which a negative number is "none"; of two labellings only the
clips that have both count. All are computed from the sparse contingency table, so 65 M labels
take seconds and memory for their distinct pairs alone. Natural logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln

_CHUNK = 1 << 22  # labels counted at once


@dataclass(frozen=True)
class Contingency:
    """Counts of pairs of labels.

    Attributes:
        table: int64 sparse [a, b]; rows and columns without clips are left out.
        rows, columns: int64[a], int64[b], the marginals.
        total: clips with both labels.
    """

    table: scipy.sparse.coo_array
    rows: np.ndarray
    columns: np.ndarray
    total: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Contingency:
        """Raises ValueError for arrays of different lengths."""
        if len(first) != len(second):
            raise ValueError(f"{len(first)} and {len(second)} labels cannot be compared")
        width = int(second.max(initial=-1)) + 1
        cells = (int(first.max(initial=-1)) + 1) * width
        dense = np.zeros(cells, np.int64) if 0 < cells <= _CHUNK else None
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for at in range(0, len(first), _CHUNK):
            a, b = first[at : at + _CHUNK], second[at : at + _CHUNK]
            both = (a >= 0) & (b >= 0)
            code = a[both].astype(np.int64) * width + b[both]
            if dense is not None:
                dense += np.bincount(code, minlength=cells)
            else:
                found.append(np.unique(code, return_counts=True))
        if dense is not None:
            code = np.flatnonzero(dense)
            counts = dense[code]
        elif found:
            code, place = np.unique(np.concatenate([f[0] for f in found]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([f[1] for f in found])).astype(np.int64)
        else:
            code = counts = np.zeros(0, np.int64)
        row, column = np.divmod(code, max(width, 1))
        row_ids, row = np.unique(row, return_inverse=True)
        column_ids, column = np.unique(column, return_inverse=True)
        shape = (len(row_ids), len(column_ids))
        table = scipy.sparse.coo_array((counts, (row, column)), shape)
        marginals = (
            np.bincount(row, counts, shape[0]).astype(np.int64),
            np.bincount(column, counts, shape[1]).astype(np.int64),
        )
        return cls(table, *marginals, int(counts.sum()))

    def mutual_information(self) -> float:
        if self.total == 0:
            return 0.0
        row, column = self.table.coords
        share = self.table.data / self.total
        expected = (self.rows[row] / self.total) * (self.columns[column] / self.total)
        return max(0.0, float((share * np.log(share / expected)).sum()))


def entropy(labels: np.ndarray) -> float:
    """Of the cluster sizes, in nats; 0 without labels."""
    return _entropy(np.bincount(labels[labels >= 0]))


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / max(counts.sum(), 1)
    return max(0.0, float(-(share * np.log(share)).sum()))


def normalized_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information over the mean of the two entropies (scikit-learn's default), in [0, 1]."""
    table = Contingency.of(first, second)
    mean = (_entropy(table.rows) + _entropy(table.columns)) / 2
    if mean == 0:
        return 1.0 if table.total else 0.0
    return min(1.0, table.mutual_information() / mean)


def adjusted_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information corrected for chance (Vinh et al. 2010), 0 expected at random."""
    table = Contingency.of(first, second)
    if table.total == 0:
        return 0.0
    if len(table.rows) == len(table.columns) == len(table.table.data):
        return 1.0  # the same clusters, also where chance could do no worse
    expected = expected_mutual_information(table.rows, table.columns, table.total)
    mean = (_entropy(table.rows) + _entropy(table.columns)) / 2
    denominator = mean - expected
    tiny = np.finfo(float).eps
    denominator = min(denominator, -tiny) if denominator < 0 else max(denominator, tiny)
    return float((table.mutual_information() - expected) / denominator)


def expected_mutual_information(rows: np.ndarray, columns: np.ndarray, total: int) -> float:
    """Under random labellings with these sizes: the sum over hypergeometric cell counts.

    Pairs of sizes occur often, so each distinct pair is computed once; the sum runs only where
    the hypergeometric probability is not negligible (10 standard deviations and 30 more).
    """
    sizes_a, times_a = np.unique(rows, return_counts=True)
    sizes_b, times_b = np.unique(columns, return_counts=True)
    n = float(total)
    answer = 0.0
    for a, repeat_a in zip(sizes_a.astype(float), times_a):
        constant_a = gammaln(a + 1) + gammaln(n - a + 1) - gammaln(n + 1)
        for b, repeat_b in zip(sizes_b.astype(float), times_b):
            mean = a * b / n
            deviation = np.sqrt(mean * (1 - a / n) * (1 - b / n)) if n > 1 else 0.0
            low = max(1.0, a + b - n, np.floor(mean - 10 * deviation - 30))
            high = min(a, b, np.ceil(mean + 10 * deviation + 30))
            cell = np.arange(low, high + 1)
            log_probability = (
                constant_a
                + gammaln(b + 1)
                + gammaln(n - b + 1)
                - gammaln(cell + 1)
                - gammaln(a - cell + 1)
                - gammaln(b - cell + 1)
                - gammaln(n - a - b + cell + 1)
            )
            terms = cell / n * np.log(n * cell / (a * b)) * np.exp(log_probability)
            answer += float(terms.sum()) * repeat_a * repeat_b
    return answer


def adjusted_rand_index(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement on pairs of clips, corrected for chance (Hubert and Arabie 1985)."""
    table = Contingency.of(first, second)

    def pairs(counts: np.ndarray | int) -> float:
        counts = np.asarray(counts, np.float64)
        return float((counts * (counts - 1) / 2).sum())

    together, a, b = pairs(table.table.data), pairs(table.rows), pairs(table.columns)
    everything = pairs(table.total)
    if everything == 0:
        return 1.0 if table.total else 0.0
    expected = a * b / everything
    highest = (a + b) / 2
    return 1.0 if highest == expected else (together - expected) / (highest - expected)


def purity(labels: np.ndarray, classes: np.ndarray) -> float:
    """Share of clips that belong to the commonest class of their cluster."""
    table = Contingency.of(labels, classes)
    if table.total == 0:
        return 0.0
    best = np.zeros(len(table.rows), np.int64)
    np.maximum.at(best, table.table.coords[0], table.table.data)
    return float(best.sum()) / table.total


def hungarian_accuracy(labels: np.ndarray, classes: np.ndarray) -> float:
    """Share of clips in the right class under the best one-to-one naming of clusters."""
    table = Contingency.of(labels, classes)
    if table.total == 0:
        return 0.0
    dense = table.table.toarray()
    return float(dense[linear_sum_assignment(dense, maximize=True)].sum()) / table.total


def churn(before: np.ndarray, after: np.ndarray) -> float:
    """Share of clips that changed cluster, after the best one-to-one matching of the clusters.

    Clusters are renumbered freely from one round to the next, so labels themselves say nothing.
    """
    table = Contingency.of(before, after)
    return 1.0 - hungarian_accuracy(before, after) if table.total else 0.0


def imbalance_factor(sizes: np.ndarray) -> float:
    """k * sum(p^2): 1 for equal sizes, k if all is in one cluster (faiss's definition)."""
    sizes = np.asarray(sizes, np.float64)
    total = sizes.sum()
    return float(len(sizes) * np.square(sizes / total).sum()) if total else 0.0


def size_histogram(sizes: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Clusters by size: counts int64[bins] and edges float64[bins + 1], equal steps in log size.

    Empty clusters are left out: they have no logarithm, and `Clustering` has none.
    """
    filled = np.asarray(sizes)[np.asarray(sizes) > 0]
    if not len(filled):
        return np.zeros(bins, np.int64), np.ones(bins + 1)
    edges = np.geomspace(filled.min(), max(filled.max(), filled.min() + 1), bins + 1)
    edges[0], edges[-1] = filled.min(), max(filled.max(), filled.min() + 1)
    return np.histogram(filled, edges)[0], edges


def effective_clusters(sizes: np.ndarray) -> float:
    """e^H of the sizes: the number of equal clusters with the same entropy."""
    return float(np.exp(_entropy(np.asarray(sizes)))) if np.sum(sizes) else 0.0


def collapse_alarm(sizes: np.ndarray, fraction: float = 0.3) -> str | None:
    """A warning that says what to try, where few clusters hold nearly everything.

    Args:
        sizes: int64[k].
        fraction: of k that the effective number of clusters may fall to.
    """
    k, effective = len(sizes), effective_clusters(sizes)
    if effective >= fraction * k:
        return None
    share = float(np.max(sizes)) / max(float(np.sum(sizes)), 1.0)
    return (
        f"clusters collapse: {effective:.1f} effective of k = {k} (alarm below {fraction * k:.1f}),"
        f" the largest holds {share:.0%} of the clips. Try clustering.balance=sinkhorn or capped, "
        "clustering.whiten=true, clustering.init=kmeans++, a smaller clustering.k, or fewer "
        "learning epochs a round"
    )
