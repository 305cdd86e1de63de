"""Labels of a block are those of the nearest centroids, and the sums of their rows are exact."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clustering.assign import CentroidIndex, distances, offsets, widen
from pipeline.clustering.resident import GpuBlocks
from pipeline.clustering.sums import ClusterSums


def nearest(
    x: np.ndarray, c: np.ndarray, bias: np.ndarray | None = None, spherical: bool = False
) -> np.ndarray:
    index = CentroidIndex(c, bias, spherical)
    return index.nearest(index.rows(x))


def scores(
    x: np.ndarray, c: np.ndarray, bias: np.ndarray | None, spherical: bool = False
) -> np.ndarray:
    """float64[n, k] of all pairs: x·c - |c|²/2 + bias, or x·c + bias."""
    exact = c.astype(np.float64)
    taken = 0.0 if spherical else 0.5 * np.square(exact).sum(axis=1)
    return x.astype(np.float64) @ exact.T - taken + (0.0 if bias is None else bias)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows and centroids with duplicates, zeros, ties on a coarse grid, and tiny numbers."""
    n, k, d = draw(st.integers(1, 40)), draw(st.integers(1, 12)), draw(st.integers(1, 20))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "grid", "constant", "close", "tiny"]))
    x = random.standard_normal((n, d))
    c = random.standard_normal((k, d))
    if kind == "grid":
        x, c = np.round(x * 2) / 4, np.round(c * 2) / 4
    if kind == "constant":
        x, c = np.full((n, d), 0.25), np.full((k, d), 0.25)
    if kind == "close":
        c = c[:1] + 1e-4 * random.standard_normal((k, d))
    if kind == "tiny":
        x, c = x * 2.0**-22, c * 2.0**-20
    x = np.clip(x / 4, -1, 1).astype(np.float16)
    if draw(st.booleans()):
        x[random.integers(n)] = 0
        c[random.integers(k)] = c[0]
    bias = np.round(random.standard_normal(k), 1) / 10 if draw(st.booleans()) else None
    return x, (c / 4).astype(np.float32), bias


@settings(max_examples=300, deadline=None)
@given(problems(), st.booleans())
def test_a_label_is_the_best_score_up_to_rounding(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray | None], spherical: bool
) -> None:
    x, c, bias = problem
    found = nearest(x, c, bias, spherical)
    assert found.dtype == np.int32
    score = scores(x, c, bias, spherical)
    lost = score.max(axis=1) - score[np.arange(len(x)), found]
    terms = 2.0**-23 * (x.shape[1] + 8)  # of float32 sums of so many products
    size = np.square(x.astype(float)).sum(axis=1) + 2 * np.square(c.astype(float)).sum(axis=1).max()
    assert (lost <= terms * (size + 4 * np.abs(0 if bias is None else bias).max())).all()


def test_plain_labels_are_those_of_faiss() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((500, 24)) / 8).astype(np.float16)
    c = x[:40].astype(np.float32)
    index = faiss.IndexFlatL2(24)
    index.add(c)
    expected = index.search(x.astype(np.float32), 1)[1][:, 0]
    assert np.array_equal(nearest(x, c, np.zeros(40)), expected)


def test_offsets_are_what_scores_lack() -> None:
    c = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    bias = np.arange(5.0)
    zero = np.zeros((1, 3))
    assert offsets(c, bias, False) == pytest.approx(-scores(zero, c, bias)[0])
    assert offsets(c, bias, True).tolist() == (-bias).tolist()


@pytest.mark.parametrize("n", [7, 700])
def test_a_row_near_to_equal_centroids_gets_the_first(n: int) -> None:
    x = (np.random.default_rng(0).standard_normal((n, 16)) / 8).astype(np.float16)
    c = np.repeat(x[:6].astype(np.float32), 2, axis=0)
    assert (nearest(x, c) % 2 == 0).all()
    assert nearest(x[:1] * 0, np.ones((3, 16), np.float32)).tolist() == [0]


def test_a_block_has_the_same_labels_on_any_thread() -> None:
    random = np.random.default_rng(0)
    c = random.standard_normal((300, 96)).astype(np.float32) / 10
    c = np.concatenate([c, c + np.float32(1e-6)])  # near ties: any other order of sums would show
    x = (random.standard_normal((3000, 96)) / 10).astype(np.float16)
    index = CentroidIndex(c)
    rows = index.rows(x)
    expected, found = index.nearest(rows), []
    faiss.omp_set_num_threads(4)
    threads = [threading.Thread(target=lambda: found.append(index.nearest(rows))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(labels, expected) for labels in found)


def test_no_rows_have_no_labels() -> None:
    c = np.eye(3, dtype=np.float32)
    for bias in (None, np.arange(3.0)):
        assert nearest(np.zeros((0, 3), np.float16), c, bias).shape == (0,)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_gpus_way_gives_the_same_labels_and_sums(balanced: bool) -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((256, 24)) / 8).astype(np.float16)
    gpu = GpuBlocks("cpu", len(x))
    for turn in range(3):
        c = x[turn * 10 : turn * 10 + 20].astype(np.float32)
        bias = random.standard_normal(20) / 10 if balanced else None
        gpu.begin(c, bias, False)
        for rows in (slice(100, 256), slice(0, 100)):
            gpu.add(rows, x[rows])
        labels = np.concatenate([nearest(part, c, bias) for part in (x[:100], x[100:])])
        assert np.array_equal(gpu.labels, labels)
        fresh = ClusterSums(len(x), 24)
        fresh.begin(c, bias, False)
        fresh.update(slice(0, 256), x, labels)
        for theirs, ours in zip(gpu.total(), fresh.total()):
            assert np.array_equal(theirs, ours)


def test_widening_keeps_every_finite_number() -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)].reshape(-1, 8)
    assert np.array_equal(widen(x).view(np.int32), x.astype(np.float32).view(np.int32))
    some = x[:120].reshape(-1, 12)[:, 3:7]
    wider = np.concatenate([some.astype(np.float32), np.zeros((len(some), 2), np.float32)], axis=1)
    assert np.array_equal(widen(some, 2), wider)


def test_distances_are_exact_for_equal_rows() -> None:
    x = (np.random.default_rng(0).standard_normal((10, 7)) / 8).astype(np.float16)
    assert distances(x, x.astype(np.float32), np.arange(10)).tolist() == [0.0] * 10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_moving_rows_leaves_the_bits_of_summing_afresh(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    x = np.clip(random.standard_normal((200, 5)) / 3, -1, 1).astype(np.float16)
    moved, fresh = ClusterSums(200, 5), ClusterSums(200, 5)
    for sums in (moved, fresh):
        sums.begin(np.zeros((k, 5), np.float32), None, False)
    for _ in range(4):
        labels = random.integers(k, size=200).astype(np.int32)
        for start in random.permutation(np.arange(0, 200, 50)):
            rows = slice(start, start + 50)
            moved.update(rows, x[rows], labels[rows])
    fresh.update(slice(0, 200), x, labels)
    assert np.array_equal(moved.total()[0], fresh.total()[0])
    assert np.array_equal(moved.total()[1], np.bincount(labels, minlength=k))
