"""Against scikit-learn and against hand calculations."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clustering import measures

labelling = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.integers(-1, 6), min_size=n, max_size=n).map(np.array) for _ in range(2))
    )
)


def _both(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    a, b = pair
    keep = (a >= 0) & (b >= 0)
    return a[keep], b[keep]


@settings(max_examples=80, deadline=None)
@given(labelling)
def test_as_scikit_learn_on_clips_with_both_labels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = _both(pair)
    if not len(a):
        assert measures.normalized_mutual_information(*pair) == 0.0
        assert measures.adjusted_mutual_information(*pair) == 0.0
        return
    # scikit-learn calls the NMI of two single clusters 1.0, as ours is.
    assert measures.normalized_mutual_information(*pair) == pytest.approx(
        reference.normalized_mutual_info_score(a, b), abs=1e-9
    )
    assert measures.adjusted_rand_index(*pair) == pytest.approx(
        reference.adjusted_rand_score(a, b), abs=1e-9
    )
    ours = measures.adjusted_mutual_information(*pair)
    theirs = reference.adjusted_mutual_info_score(a, b)
    if abs(theirs) < 10:  # where the denominator vanishes, the quotient is noise in both
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_adjusted_measures_at_size() -> None:
    random = np.random.default_rng(0)
    a = random.integers(300, size=200_000)
    b = np.where(random.random(200_000) < 0.5, a // 2, random.integers(150, size=200_000))
    assert measures.adjusted_mutual_information(a, b) == pytest.approx(
        reference.adjusted_mutual_info_score(a, b), abs=1e-9
    )
    assert measures.adjusted_rand_index(a, b) == pytest.approx(
        reference.adjusted_rand_score(a, b), abs=1e-12
    )


def test_sparse_table_equals_dense_table() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(5000, size=30_000), random.integers(4000, size=30_000)
    table = measures.contingency(a, b)  # 20 M cells: counted as pairs
    dense = reference.cluster.contingency_matrix(a, b, sparse=True)
    assert (table != dense.tocsr()).nnz == 0
    assert table.sum() == 30_000


def test_purity_and_accuracy_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, -1])
    classes = np.array([5, 5, 6, 6, 6, 6, 6, 5])
    # Clusters hold {5: 2, 6: 1}, {6: 3}, {6: 1}: commonest 2 + 3 + 1 of 7.
    assert measures.purity(labels, classes) == pytest.approx(6 / 7)
    # One to one: 0 is 5, 1 is 6, 2 is nothing.
    assert measures.hungarian_accuracy(labels, classes) == pytest.approx(5 / 7)


def test_churn_ignores_renumbering() -> None:
    before = np.array([0, 0, 1, 1, 2, 2, -1])
    after = np.array([2, 2, 0, 0, 1, 1, 0])
    assert measures.churn(before, after) == 0.0
    after[0] = 1
    assert measures.churn(before, after) == pytest.approx(1 / 6)


def test_evenness_by_hand() -> None:
    assert measures.imbalance_factor(np.array([5, 5, 5, 5])) == pytest.approx(1.0)
    assert measures.imbalance_factor(np.array([20, 0, 0, 0])) == pytest.approx(4.0)
    assert measures.imbalance_factor(np.array([3, 1])) == pytest.approx(2 * (9 + 1) / 16)
    assert measures.effective_clusters(np.array([7, 7, 7])) == pytest.approx(3.0)
    assert measures.effective_clusters(np.array([9, 0, 0])) == pytest.approx(1.0)
    # p = 3/4, 1/4: e^H = (3/4)^(-3/4) (1/4)^(-1/4).
    assert measures.effective_clusters(np.array([3, 1])) == pytest.approx(0.75**-0.75 * 0.25**-0.25)
    assert measures.entropy(np.array([3, 1, 0])) == pytest.approx(0.5623351446)


def test_collapse_alarm_says_what_to_try() -> None:
    assert measures.collapse_alarm(np.full(100, 7)) is None
    warning = measures.collapse_alarm(np.array([1000] + [1] * 99))
    assert warning is not None
    assert "clustering.balance=sinkhorn" in warning
    assert "k = 100" in warning


def test_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 and 4"):
        measures.purity(np.zeros(3, int), np.zeros(4, int))
