"""Every screen gives the labels of the definition, whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clustering.centroid_index import CentroidIndex
from pipeline.clustering.halves import widen
from pipeline.clustering.nearest import Centroids, distances
from pipeline.clustering.screens import Screens, SgemmScreen, Vectors
from pipeline.clustering.sums import ClusterSums
from pipeline.clustering.tensor_screens import Bfloat16Screen, CudaScreen


def by_definition(x: np.ndarray, c: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The definition in nearest.py, for all pairs."""
    exact = c.astype(np.float64)
    half = 0.5 * np.square(exact).sum(axis=1) - (0 if bias is None else bias)
    products = x.astype(np.float64)[:, None, :] * exact[None]
    return (np.ascontiguousarray(products).sum(axis=2) - half).argmax(axis=1)


def all_screens(c: np.ndarray, bias: np.ndarray | None = None) -> dict[str, object]:
    prepared = Centroids(c, bias)
    plain = SgemmScreen(prepared)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "sgemm": plain,
        "bfloat16": Bfloat16Screen(prepared, plain),
        **{f"cuda's, on {device}": CudaScreen(prepared, device) for device in devices},
        "faiss": CentroidIndex(prepared),
    }


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
@given(problems())
def test_all_screens_agree_with_the_definition(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray | None],
) -> None:
    x, c, bias = problem
    expected = by_definition(x, c, bias)
    for name, screen in all_screens(c, bias).items():
        assert screen(Vectors.of(x)).tolist() == expected.tolist(), name


@pytest.mark.parametrize("spread", [0.01, 0.3, 2.0])
def test_all_screens_agree_at_size(spread: float) -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((300, 96))
    x = centres[random.integers(300, size=6000)] + spread * random.standard_normal((6000, 96))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    c = x[:700].astype(np.float32)  # many of them nearly equal
    c = np.concatenate([c, c[:50]])
    vectors = Vectors.of(x)
    labels = {name: screen(vectors) for name, screen in all_screens(c).items()}
    for at in range(0, 6000, 500):
        expected = by_definition(x[at : at + 500], c, None)
        for name, found in labels.items():
            assert np.array_equal(found[at : at + 500], expected), name
    # However the rows are cut into blocks, each keeps its label.
    screen = SgemmScreen(Centroids(c))
    pieces = [screen(vectors[at : at + 77]) for at in range(0, 6000, 77)]
    assert np.array_equal(np.concatenate(pieces), labels["sgemm"])


def test_rows_kept_on_the_device_keep_their_labels() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((256, 24)) / 8).astype(np.float16)
    resident: dict[int, object] = {}
    for turn in range(3):
        c = x[turn * 10 : turn * 10 + 20].astype(np.float32)
        screen = CudaScreen(Centroids(c), "cpu", resident)
        assert np.array_equal(screen(Vectors.of(x)), by_definition(x, c, None))
    assert len(resident) == 1


def test_screens_choose_by_the_clock_once_torch_is_there() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((256, 32)).astype(np.float16) / np.float16(8)
    c = Centroids(x[:16].astype(np.float32))
    screens = Screens(work=1e15)
    assert np.array_equal(screens.prepare(c, Vectors.of(x))(Vectors.of(x))[:16], np.arange(16))
    assert screens.cost.keys() == {"sgemm", "bfloat16"}


def test_widening_keeps_every_finite_number() -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    assert np.array_equal(widen(x).view(np.int32), x.astype(np.float32).view(np.int32))
    assert np.array_equal(widen(x[:120].reshape(12, 10)[:, 3:7]), x[:120].reshape(12, 10)[:, 3:7])


def test_row_bounds_hold() -> None:
    torch = pytest.importorskip("torch")
    x = (np.random.default_rng(0).standard_normal((500, 33)) / 8).astype(np.float16)
    vectors = Vectors.of(x)
    exact = x.astype(np.float64)
    rounded = torch.from_numpy(x).bfloat16().double().numpy()
    assert (vectors.norms >= np.linalg.norm(exact, axis=1)).all()
    assert (vectors.roundings >= np.linalg.norm(exact - rounded, axis=1)).all()
    assert vectors.roundings.max() < 2**-8 * vectors.norms.max()


def test_distances_are_exact_for_equal_rows() -> None:
    x = (np.random.default_rng(0).standard_normal((10, 7)) / 8).astype(np.float16)
    assert distances(x, x.astype(np.float32), np.arange(10)).tolist() == [0.0] * 10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_moving_rows_leaves_the_bits_of_summing_afresh(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    x = np.clip(random.standard_normal((200, 5)) / 3, -1, 1).astype(np.float16)
    moved = ClusterSums(k, 5, 200)
    for _ in range(4):
        labels = random.integers(k, size=200).astype(np.int32)
        for start in random.permutation(np.arange(0, 200, 50)):
            moved.update(int(start), x[start : start + 50], labels[start : start + 50])
    fresh = ClusterSums(k, 5, 200)
    fresh.update(0, x, labels)
    assert np.array_equal(moved.sums, fresh.sums)
    assert np.array_equal(moved.counts, np.bincount(labels, minlength=k))
