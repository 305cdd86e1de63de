from __future__ import annotations

import numpy as np
import pytest

from pipeline.clustering import measures
from pipeline.clustering.agreement import agreement


@pytest.mark.parametrize("k", [16, 1024])
def test_agreement_by_chance_is_none_however_many_clusters(k: int) -> None:
    a, b = np.random.default_rng(0).integers(k, size=(2, 3000))
    assert agreement(a, b) == pytest.approx(0.0, abs=0.02)
    assert agreement(a, (a + 1) % k) == pytest.approx(1.0)


def test_agreement_of_many_clips_is_told_by_some() -> None:
    random = np.random.default_rng(0)
    a = random.integers(64, size=2_300_000)
    b = np.where(random.random(len(a)) < 0.5, a, random.integers(64, size=len(a)))
    whole = measures.adjusted_mutual_information(a, b)
    assert agreement(a, b) == pytest.approx(whole, abs=0.005)


def test_what_all_clips_of_a_file_share_does_not_count() -> None:
    """Six clips a file: a room of the file, a word of the clip, and clusterings that see either."""
    random = np.random.default_rng(0)
    files = random.permutation(np.repeat(np.arange(500), 6))
    room, word = random.integers(20, size=500)[files], random.integers(20, size=3000)

    def seen(what: np.ndarray) -> np.ndarray:
        return np.where(random.random(3000) < 0.7, what, random.integers(20, size=3000))

    assert agreement(seen(room), seen(room)) == pytest.approx(
        agreement(seen(word), seen(word)), abs=0.05
    )
    assert agreement(seen(room), seen(room), files) < 0.02
    beyond = agreement(seen(word), seen(word), files)
    assert beyond == pytest.approx(agreement(seen(word), seen(word)), abs=0.1)
    assert agreement(room, room, files) == 0, "nothing is left to know"
    assert agreement(word, (word + 1) % 20, files) == pytest.approx(1)


def test_clips_without_labels_are_left_out() -> None:
    random = np.random.default_rng(0)
    files, a = np.repeat(np.arange(500), 6), random.integers(20, size=3000)
    b, kept = np.where(random.random(3000) < 0.3, -1, a), random.random(3000) < 0.8
    assert agreement(a, b, files) == pytest.approx(1)
    assert agreement(np.where(kept, a, -1), a, files) == agreement(a[kept], a[kept], files[kept])


def test_only_clips_whose_file_is_told_are_compared() -> None:
    random = np.random.default_rng(0)
    files, a = np.repeat(np.arange(500), 6), random.integers(20, size=3000)
    b = np.where(np.arange(3000) < 1800, a, random.integers(20, size=3000))
    assert agreement(a, b, files[:1800]) == pytest.approx(1)
