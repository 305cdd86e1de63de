"""How much likelier than chance a pair of clusters is."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.curation import pair_likelihood as module
from pipeline.curation.pair_likelihood import pair_likelihood


def test_it_is_that_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLIPS", 3)
    first = np.array([5, 5, 5, 5, 9, 9, 9, -1, 2], np.int32)
    second = np.array([0, 0, 0, 4, 4, 4, -1, 4, -1], np.int32)
    found = pair_likelihood(first, second)
    assert np.isnan(found).tolist() == [False] * 6 + [True] * 3
    # Of six clips: three of five others of cluster 5 are in 0, and so on.
    assert found[0] == pytest.approx(np.log((2 + 1) / (3 * 2 / 5 + 1)))
    assert found[3] == pytest.approx(np.log((0 + 1) / (3 * 2 / 5 + 1)))
    assert found[4] == pytest.approx(np.log((1 + 1) / (1 * 2 / 5 + 1)))


def test_exchanged_sound_scores_below_chance() -> None:
    random = np.random.default_rng(0)
    video = random.integers(0, 8, 4000)
    audio = np.where(random.random(4000) < 0.9, video, random.integers(0, 8, 4000))
    score = pair_likelihood(video.astype(np.int32), audio.astype(np.int32))
    assert (score[video == audio] > 1).all()
    assert (score[video != audio] < -1).all()
    unrelated = pair_likelihood(video, random.permutation(audio))
    assert np.abs(unrelated).max() < 0.5


def test_no_pair_at_all() -> None:
    none = np.full(3, -1, np.int32)
    assert np.isnan(pair_likelihood(none, none)).all()
