"""Rows that are left out of a pass have the labels that comparing them would have given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clustering.nearest import Centroids
from pipeline.clustering.pruning import Pruning
from pipeline.clustering.screens import Screen, SgemmScreen, Vectors
from pipeline.clustering.tensor_screens import Bfloat16Screen


class Counting:
    """A screen that counts the rows it is given."""

    def __init__(self, screen: Screen):
        self.screen = screen
        self.rows = 0

    def __call__(self, vectors: Vectors, rivals: np.ndarray | None = None) -> np.ndarray:
        self.rows += len(vectors.x)
        return self.screen(vectors, rivals)


def passes(
    x: np.ndarray,
    several: list[np.ndarray],
    biases: list[np.ndarray | None],
    spherical: bool = False,
    half: bool = False,
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Per pass: pruned labels, labels without pruning, rows that were compared with all."""
    pruning, vectors = Pruning(len(x)), Vectors.of(x)
    labels = np.full(len(x), -1, np.int32)
    cut = len(x) // 2
    blocks = [slice(0, cut), slice(cut, len(x))] if cut else [slice(0, len(x))]
    found = []
    for centroids, bias in zip(several, biases):
        prepared = Centroids(centroids, bias, spherical, pruning.frame)
        plain = SgemmScreen(prepared)
        screen = Counting(Bfloat16Screen(prepared, plain) if half else plain)
        pruning.begin(prepared, blocks[-1], vectors[blocks[-1]], labels[blocks[-1]])
        labels = np.concatenate(
            [pruning.labels(screen, rows, vectors[rows], labels[rows]) for rows in blocks]
        )
        pruning.end(prepared)
        fresh = SgemmScreen(Centroids(centroids, bias, spherical))
        found.append((labels, fresh(vectors), screen.rows))
    return found


@st.composite
def moves(
    draw: st.DrawFn,
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray | None], bool, bool]:
    """Rows near some points, and centroids of which few or all move, jump, or become equal."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, k, d = draw(st.integers(1, 80)), draw(st.integers(1, 12)), draw(st.integers(1, 16))
    points = random.standard_normal((k, d))
    noise = draw(st.sampled_from([0.0, 0.01, 0.5]))
    x = points[random.integers(k, size=n)] + noise * random.standard_normal((n, d))
    if draw(st.booleans()):
        x[random.integers(n)] = 0
    c, several, biases = points.copy(), [], []
    biased = draw(st.booleans())
    for _ in range(6):
        several.append((c / 8).astype(np.float32))
        biases.append(random.standard_normal(k) / 50 if biased else None)
        kind = draw(st.sampled_from(["still", "one", "all", "jump", "equal"]))
        one = random.integers(k)
        if kind == "one":
            c[one] += 0.3 * random.standard_normal(d)
        if kind == "all":
            c += 0.003 * random.standard_normal((k, d))
        if kind == "jump":
            c[one] = x[random.integers(n)]
        if kind == "equal":
            c[one] = c[random.integers(k)]
    x = np.clip(x / 8, -1, 1).astype(np.float16)
    return x, several, biases, draw(st.booleans()), draw(st.booleans())


@settings(max_examples=300, deadline=None)
@given(moves())
def test_labels_are_those_of_whole_passes(
    problem: tuple[np.ndarray, list[np.ndarray], list[np.ndarray | None], bool, bool],
) -> None:
    for pruned, whole, _ in passes(*problem):
        assert pruned.tolist() == whole.tolist()


@pytest.mark.parametrize("half", [False, True])
def test_settled_rows_are_left_out_even_when_one_centroid_jumps(half: bool) -> None:
    random = np.random.default_rng(0)
    c = random.standard_normal((64, 32))
    x = (c[random.integers(64, size=4000)] + 0.1 * random.standard_normal((4000, 32))) / 8
    several = [c]
    for _ in range(3):
        c = c + 0.001 * random.standard_normal(c.shape)
        c[5] = random.standard_normal(32)
        several.append(c)
    found = passes(
        x.astype(np.float16), [(s / 8).astype(np.float32) for s in several], [None] * 4, half=half
    )
    assert found[0][2] == 4000
    for pruned, whole, compared in found[1:]:
        assert np.array_equal(pruned, whole)
        assert compared < 400
