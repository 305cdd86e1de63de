"""Even shares, from the top of a hierarchy down."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curation.balanced_draw import draw, even_shares, quotas

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)  # other work may share the cores
@given(SIZES, st.integers(0, 300))
def test_shares_are_as_even_as_they_can_be(there: list[int], wanted: int) -> None:
    sizes, wanted = np.array(there), min(wanted, sum(there))
    shares = even_shares(sizes, wanted)
    assert shares.sum() == wanted
    assert ((shares >= 0) & (shares <= sizes)).all()
    below = shares < sizes  # who could give more gives as much as anyone, but for one
    if below.any():
        assert shares.max() <= shares[below].min() + 1


def test_branches_count_and_not_their_sizes() -> None:
    there = np.array([1000, 1000, 1000, 1000, 40])
    parents = [np.array([0, 0, 0, 0, 1])]
    assert quotas(there, parents, 80).tolist() == [10, 10, 10, 10, 40]
    assert quotas(there, [], 80).tolist() == [16] * 5
    assert quotas(there, parents, 400).tolist() == [90, 90, 90, 90, 40], "it has no more"


def test_a_draw_follows_from_the_seed_and_the_clips() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(4, 600, p=[0.7, 0.2, 0.09, 0.01]).astype(np.int32)
    labels[::50] = -1
    clips = random.random(600) < 0.8
    parents = [np.array([0, 0, 1, 1])]
    drawn = draw(clips, labels, parents, 90, seed=3)
    assert drawn.sum() == 90
    assert (drawn & ~clips).sum() == 0
    found = np.bincount(labels[drawn] + 1, minlength=5)
    there = np.bincount(labels[clips] + 1, minlength=5)
    assert found[0] == there[0], "without a cluster: a branch of its own, smaller than its share"
    assert found[4] == there[4]
    assert np.array_equal(drawn, draw(clips, labels, parents, 90, seed=3))
    assert not np.array_equal(drawn, draw(clips, labels, parents, 90, seed=4))
