"""Which clips of a group stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curation import duplicates
from pipeline.curation.duplicates import representatives


def on_a_circle(degrees: list[float]) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float16)


EDGES = np.array([0, 2])


def test_the_middle_one_stands_for_its_neighbours() -> None:
    stands, cosine = representatives(on_a_circle([0, 10, 20]), EDGES, np.cos(np.radians(12)))
    assert stands.tolist() == [1, 1, 1]
    assert cosine == pytest.approx([np.cos(np.radians(10)), 1, np.cos(np.radians(10))], abs=1e-3)


def test_of_equal_ones_the_first_stays() -> None:
    stands, _ = representatives(on_a_circle([30, 30, 30]), EDGES, 0.99)
    assert stands.tolist() == [0, 0, 0]
    stands, _ = representatives(on_a_circle([10, 13]), EDGES, 0.99)
    assert stands.tolist() == [0, 0]


@settings(deadline=None, max_examples=50)  # other work may share the cores
@given(st.lists(st.floats(0, 180), min_size=1, max_size=40), st.integers(1, 9))
def test_all_that_goes_is_near_to_what_stays(degrees: list[float], rows: int) -> None:
    """Of a chain, too, whose ends are far from each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK_ROWS", rows)
        vectors = on_a_circle(degrees)
        stands, cosine = representatives(vectors, EDGES, 0.95)
    assert (stands[stands] == stands).all()
    true = (vectors.astype(float) * vectors[stands].astype(float)).sum(axis=1)
    gone = stands != np.arange(len(degrees))
    assert (cosine[gone] >= 0.95).all()
    assert np.allclose(cosine[gone], true[gone], atol=1e-3)
    stay = vectors[~gone].astype(float)
    among = stay @ stay.T - np.eye(len(stay))
    assert (among < 0.95 + 1e-3).all(), "two that are near to each other stay"
