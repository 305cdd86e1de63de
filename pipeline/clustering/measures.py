"""How good, balanced and stable a clustering is; label -1 (none) is ignored pairwise."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.sparse


def contingency(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """int64 [ka, kb] counts of pairs of labels, over the places where both are known."""
    known = (a >= 0) & (b >= 0)
    table = scipy.sparse.coo_matrix((np.ones(known.sum(), np.int64), (a[known], b[known])))
    return table.toarray()


def nmi(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised mutual information, arithmetic mean of the entropies, in [0, 1]."""
    joint = contingency(a, b) / max(contingency(a, b).sum(), 1)
    pa, pb = joint.sum(axis=1), joint.sum(axis=0)
    expected = pa[:, None] * pb
    some = joint > 0
    information = float((joint[some] * np.log(joint[some] / expected[some])).sum())
    mean = (entropy(pa) + entropy(pb)) / 2
    return information / mean if mean > 0 else 1.0


def entropy(p: np.ndarray) -> float:
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum())


def churn(a: np.ndarray, b: np.ndarray) -> float:
    """Share of clips whose cluster changed, after the best matching of the two clusterings."""
    table = contingency(a, b)
    rows, columns = scipy.optimize.linear_sum_assignment(table, maximize=True)
    return float(1 - table[rows, columns].sum() / max(table.sum(), 1))


def imbalance(sizes: np.ndarray) -> float:
    """k · Σ pᵢ²: 1 when all clusters are equal (faiss's imbalance factor)."""
    p = sizes / max(sizes.sum(), 1)
    return float(len(sizes) * (p**2).sum())


def effective_clusters(sizes: np.ndarray) -> float:
    """e^H of the cluster sizes: k when all are equal, 1 when one holds everything."""
    return float(np.exp(entropy(sizes.astype(float))))


def collapse_alarm(sizes: np.ndarray, share: float = 0.3) -> str | None:
    """A warning that says what to try, when the effective number is below `share` of k."""
    effective = effective_clusters(sizes)
    if effective >= share * len(sizes):
        return None
    return (
        f"only {effective:.1f} of {len(sizes)} clusters are in effect; try a smaller "
        "clustering.k, clustering.whiten=true or clustering.balance=sinkhorn"
    )
