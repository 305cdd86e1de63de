"""Clusters of one round in those of another, and where new clips lie."""

from __future__ import annotations

import numpy as np

from pipeline.clustering.matching import matched, share_of_new


def test_permuted_ids_are_found_again() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(-1, 20, 5000).astype(np.int32)
    names = rng.permutation(20).astype(np.int32)
    now = np.where(before < 0, -1, names[before]).astype(np.int32)
    noise = rng.random(5000) < 0.3
    now[noise] = rng.integers(0, 20, noise.sum())
    more = np.concatenate([now, rng.integers(0, 20, 700).astype(np.int32)])
    assert np.array_equal(matched(before, more, 20)[names], np.arange(20))


def test_a_cluster_has_one_partner_at_most() -> None:
    before = np.array([0, 0, 0, 0, 1, -1], np.int32)
    now = np.array([2, 2, 2, 0, 0, 1], np.int32)
    assert matched(before, now, 4).tolist() == [1, -1, 0, -1]
    assert matched(np.zeros(0, np.int32), now, 4).tolist() == [-1] * 4


def test_share_of_new_clips() -> None:
    labels = np.array([0, 0, 1, -1, 0, 1, 1, -1], np.int32)
    assert share_of_new(labels, 4, 3).tolist() == [1 / 3, 2 / 3, 0]
