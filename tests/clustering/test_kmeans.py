"""What a clustering computes, without Ray: the same objective as faiss, the same bytes always."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixture_factory import files, mixture, run_here

from pipeline.clustering import read_labels
from pipeline.clustering.blocks import Ordinals, generator, snap
from pipeline.clustering.labels import read_columns
from pipeline.clustering.transform import Transform
from pipeline.errors import UserError
from pipeline.storage import Location
from tests.conftest import s3_uri

Writer = Callable[..., Location]


def centroids_of(out: Location) -> np.ndarray:
    return np.load((out / "centroids.npy").path)


def vectors_of(out: Location, raw: np.ndarray) -> np.ndarray:
    """float32[n, d], the numbers that were clustered."""
    return Transform.loads((out / "transform.npz").read_bytes())(raw.astype(np.float16)).astype(
        np.float32
    )


@pytest.mark.parametrize("spherical", [False, True])
def test_equals_faiss_unsampled(write_features: Writer, tmp_path: Path, spherical: bool) -> None:
    raw = mixture(3000, 24, 40)
    out = Location.of(tmp_path / "out")
    steps = run_here(
        [write_features(raw)], 3000, out, k=30, iterations=8, spherical=spherical, shards=3
    )
    x = vectors_of(out, raw)
    chosen = generator(0, "seeding", 0).choice(3000, 30, replace=False, shuffle=True)
    kmeans = faiss.Kmeans(24, 30, niter=8, max_points_per_centroid=3000, spherical=spherical)
    kmeans.train(x, init_centroids=x[chosen])
    ours = np.array([s.objective for s in steps if s.stage == "iterating"])
    theirs = np.array([s["obj"] for s in kmeans.iteration_stats])[: len(ours)]
    if spherical:  # faiss reports the sum of inner products
        theirs = 2 * 3000 - 2 * theirs
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert centroids_of(out) == pytest.approx(kmeans.centroids, abs=1e-4)
    _, nearest = kmeans.index.search(x, 1)
    assert (nearest[:, 0] == read_labels(out, 3000)).mean() > 0.999


@pytest.mark.parametrize("init", ["random", "kmeans++", "kmeans||"])
@pytest.mark.parametrize("balance", ["none", "capped", "sinkhorn"])
def test_same_bytes_for_any_sharding(
    write_features: Writer, tmp_path: Path, init: str, balance: str
) -> None:
    index = np.flatnonzero(np.random.default_rng(1).random(1100) < 0.9)
    features = [write_features(mixture(len(index), 20, 9), index)]
    made = {}
    for name, how in {
        "one": {},
        "five": {"shards": 5},
        "threads": {"shards": 2, "threads": 3},
        "disk": {"shards": 3, "budget": 0},
        "a GPU's way, on the CPU": {"shards": 2, "device": "cpu:0"},
    }.items():
        out = Location.of(tmp_path / name)
        run_here(
            features, 1100, out, k=12, iterations=5, pca_dim=8, init=init, balance=balance,
            cap=1.2, restarts=2, **how,
        )  # fmt: skip
        made[name] = files(out)
    assert set(made["one"]) == {
        "/centroids.npy", "/clustering.json", "/labels/part-00000.parquet", "/transform.npz",
    }  # fmt: skip
    for name, left in made.items():
        assert left == made["one"], name
    labels = read_labels(Location.of(tmp_path / "one"), 1100)
    assert np.array_equal(np.flatnonzero(labels >= 0), index)
    sizes = np.bincount(labels[index], minlength=12)
    assert sizes.min() > 0
    if balance == "capped":
        assert sizes.max() <= np.ceil(1.2 * len(index) / 12)
    if balance == "sinkhorn":
        assert sizes.max() < 2.5 * len(index) / 12


def test_order_and_files_of_rows_do_not_matter(write_features: Writer, tmp_path: Path) -> None:
    raw, made = mixture(500, 10, 5), []
    for parts in (1, 7):
        features = [write_features(raw[::-1], np.arange(500)[::-1], f"f{parts}", parts)]
        run_here(features, 500, Location.of(tmp_path / f"o{parts}"), k=7, iterations=4)
        made.append(files(Location.of(tmp_path / f"o{parts}")))
    for name in ("/labels/part-00000.parquet", "/centroids.npy", "/transform.npz"):
        assert made[0][name] == made[1][name]


@pytest.mark.parametrize("balance", ["none", "sinkhorn"])
def test_a_run_cut_off_anywhere_goes_on_to_the_same_bytes(
    write_features: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balance: str
) -> None:
    from pipeline.clustering.kmeans import KMeans

    features = [write_features(mixture(400, 12, 6))]
    how = {"k": 8, "iterations": 4, "restarts": 2, "pca_dim": 6, "balance": balance}
    steps = run_here(features, 400, Location.of(tmp_path / "whole"), **how)
    advance = KMeans.advance

    class Killed(BaseException):
        pass

    out = Location.of(tmp_path / "cut")
    for lives in range(1, 100):
        done = [0]

        def once(self: KMeans, done: list[int] = done) -> object:
            if done[0] == 3:  # loading again, and two steps further
                raise Killed
            done[0] += 1
            return advance(self)

        monkeypatch.setattr(KMeans, "advance", once)
        try:
            run_here(features, 400, out, shards=1 + lives % 3, **how)
            break
        except Killed:
            continue
    assert lives >= (len(steps) - 1) // 2
    assert files(out) == files(Location.of(tmp_path / "whole"))


def test_state_of_other_settings_is_not_continued(write_features: Writer, tmp_path: Path) -> None:
    from pipeline.clustering.state import Attempt, State

    features = [write_features(mixture(200, 6, 4))]
    out = Location.of(tmp_path / "out")
    stale = State("another key", 0, Attempt(np.full((5, 6), 9.0, np.float32), np.zeros(5)))
    stale.save(out)
    run_here(features, 200, out, k=5, iterations=3)
    fresh = Location.of(tmp_path / "fresh")
    run_here(features, 200, fresh, k=5, iterations=3)
    assert files(out) == files(fresh)


def test_joint_clustering_weighs_modalities_alike(write_features: Writer, tmp_path: Path) -> None:
    first, second = mixture(300, 8, 3, seed=1), 100 * mixture(290, 5, 3, seed=2)
    present = np.delete(np.arange(300), np.arange(0, 300, 30))
    folders = [write_features(first, name="v"), write_features(second, present, name="a")]
    out = Location.of(tmp_path / "out")
    run_here(folders, 300, out, k=4, iterations=6, shards=2)
    labels, near = read_columns(out, 300, ["label", "distance"])
    assert np.array_equal(np.flatnonzero(labels >= 0), present)
    assert np.isnan(near[labels < 0]).all()
    transform = Transform.loads((out / "transform.npz").read_bytes())
    raw = np.concatenate([first[present], second], axis=1).astype(np.float16)
    x = transform(transform.joined(raw)).astype(np.float64)
    assert np.square(x[:, :8]).sum(axis=1) == pytest.approx(np.full(290, 0.5), rel=1e-2)
    expected = np.linalg.norm(x - centroids_of(out)[labels[present]], axis=1)
    assert near[present] == pytest.approx(expected, abs=2e-3)


def test_whitening_makes_directions_equal(write_features: Writer, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    raw = random.standard_normal((4000, 6)) * [9, 5, 3, 1, 0.5, 0] + 4
    out = Location.of(tmp_path / "out")
    run_here([write_features(raw)], 4000, out, k=3, iterations=1, pca_dim=6, l2=False, shards=2)
    transform = Transform.loads((out / "transform.npz").read_bytes())
    assert transform.dim == 5  # the constant direction has no variance to scale
    x = vectors_of(out, raw).astype(np.float64)
    assert np.abs(x).max() <= 1
    covariance = np.cov(x.T) * transform.norm**2
    assert covariance == pytest.approx(np.eye(5), abs=0.02)
    expected = np.sort(np.linalg.eigvalsh(np.cov(raw.astype(np.float16).astype(float).T)))[:0:-1]
    assert transform.eigenvalues * transform.scale**2 == pytest.approx(expected, rel=0.01)


def test_restarts_keep_the_best(write_features: Writer, tmp_path: Path) -> None:
    features = [write_features(mixture(600, 6, 12, spread=0.05))]
    out = Location.of(tmp_path / "out")
    steps = run_here(features, 600, out, k=12, iterations=10, restarts=4)
    last = {s.restart: s.objective for s in steps if s.stage == "iterating"}
    assert len(set(last.values())) > 1
    assert (out / "clustering.json").read_json()["objective"][-1] == min(last.values())


def test_spreading_seeds_beats_random_ones(write_features: Writer, tmp_path: Path) -> None:
    features = [write_features(mixture(1500, 6, 40, spread=0.01))]
    first = {}
    for init in ("random", "kmeans++", "kmeans||"):
        out = Location.of(tmp_path / init)
        steps = run_here(features, 1500, out, k=40, iterations=1, init=init, shards=2)
        first[init] = next(s.objective for s in steps if s.stage == "iterating")
    assert first["kmeans++"] < 0.5 * first["random"]
    assert first["kmeans||"] < 0.5 * first["random"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_shape_gives_k_filled_clusters(
    write_features: Writer, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("any")
    n, d = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 9))
    k = data.draw(st.sampled_from([1, n, max(1, n // 2), min(n, 3)]))
    kind = data.draw(st.sampled_from(["normal", "constant", "zero", "duplicates", "huge"]))
    raw = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((n, d))
    if kind in ("constant", "zero"):
        raw[:] = 3.0 if kind == "constant" else 0.0
    if kind == "duplicates":
        raw = raw[np.random.default_rng(0).integers(max(1, n // 4), size=n)]
    if kind == "huge":
        raw *= 15_000
    features = [write_features(raw, name=str(place.name))]
    how = {
        "k": k,
        "iterations": 3,
        "pca_dim": data.draw(st.sampled_from([0, 4])),
        "l2": data.draw(st.booleans()),
        "init": data.draw(st.sampled_from(["random", "kmeans++", "kmeans||"])),
        "spherical": data.draw(st.booleans()),
        "balance": data.draw(st.sampled_from(["none", "capped", "sinkhorn"])),
        "block_size": 16,
    }
    made = []
    for shards in (1, 3):
        out = Location.of(place / str(shards))
        run_here(features, n, out, shards=shards, **how)
        made.append(files(out))
    assert made[0] == made[1]
    labels = read_labels(out, n)
    assert np.array_equal(np.unique(labels), np.arange(k))
    assert np.isfinite(centroids_of(out)).all()
    objective = (out / "clustering.json").read_json()["objective"]
    if how["balance"] == "none" and len(objective) > 1 and n > 4 * k:
        assert objective[-1] <= objective[0] * (1 + 1e-6) + 1e-6


def test_more_clusters_than_clips_is_the_users_error(
    write_features: Writer, tmp_path: Path
) -> None:
    features = [write_features(mixture(9, 4, 2))]
    with pytest.raises(UserError, match=r"k = 10 .* only 9 clips .* at most 9"):
        run_here(features, 20, Location.of(tmp_path / "out"), k=10)


def test_nan_and_infinite_features_are_named(write_features: Writer, tmp_path: Path) -> None:
    raw = mixture(100, 4, 2)
    raw[17, 2], raw[83, 0] = np.nan, np.inf
    features = [write_features(raw)]
    with pytest.raises(UserError, match=r"2 clips have NaN .* clip_index 17, 83; embed") as error:
        run_here(features, 100, Location.of(tmp_path / "out"), k=3, block_size=200)
    assert "\n" not in str(error.value)


def test_clips_that_occur_twice_are_named(write_features: Writer, tmp_path: Path) -> None:
    index = np.arange(50)
    index[30] = 5
    features = [write_features(mixture(50, 4, 2), index)]
    with pytest.raises(UserError, match=r"occur more than once .* clip_index 5"):
        run_here(features, 50, Location.of(tmp_path / "out"), k=3)


def test_snapped_sums_do_not_depend_on_order() -> None:
    values = np.random.default_rng(0).random(5000)
    snapped = [float(snap(v, 5000.0)) for v in values]
    totals = {sum(sorted(snapped, key=lambda v: hash((v, turn)))) for turn in range(20)}
    assert len(totals) == 1
    assert totals.pop() == pytest.approx(values.sum(), abs=1e-9)


def test_ordinals_skip_absent_clips() -> None:
    ordinals = Ordinals(np.array([2, 0, 3]))
    assert ordinals.total == 5
    assert ordinals.locate(np.arange(5)).tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]


def test_buckets_hold_the_same_bytes(write_features: Writer, tmp_path: Path, s3: str) -> None:
    here = write_features(mixture(300, 8, 4))
    there = Location.of(s3_uri("media/clustering/features", s3))
    for part in here.files():
        (there / part.name).write_bytes(part.read_bytes())
    made = Location.of(tmp_path / "out"), Location.of(s3_uri("media/clustering/out", s3))
    for features, out in zip((here, there), made):
        run_here([features], 300, out, k=5, iterations=3, pca_dim=4, shards=2)
    for name in ("centroids.npy", "clustering.json", "labels/part-00000.parquet"):
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes()
    assert not (made[1] / "state.npz").exists()
    assert np.array_equal(read_labels(made[1], 300), read_labels(made[0], 300))
