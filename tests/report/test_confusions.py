"""Labels that a clustering tells, confuses, or does not tell."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.confusions import confusions

NAMES = ["told", "also told", "alike", "likewise", "spread", "rare"]


def test_labels_that_are_told_confused_or_neither() -> None:
    random = np.random.default_rng(0)
    clusters = [
        np.full(40, 0),
        np.full(40, 1),
        np.repeat([2, 3], 20),  # the next label lies in the same two clusters
        np.repeat([2, 3], 20),
        random.integers(8, 20, 200),
        np.full(4, 0),  # too few to say anything of
    ]
    classes = np.repeat(np.arange(6), [len(part) for part in clusters])
    found = confusions(np.concatenate(clusters), classes, NAMES)
    assert found["untold"] == ["spread"]
    (first, second, share), *others = found["pairs"]
    assert {first, second} == {"alike", "likewise"}
    assert share == pytest.approx(1, abs=0.06)  # two different clips of one label, or of both
    assert others == []


def test_clusters_without_meaning_tell_no_label() -> None:
    random = np.random.default_rng(1)
    clusters, classes = random.integers(0, 32, 3000), random.integers(0, 50, 3000)
    found = confusions(clusters, classes, [f"label{n}" for n in range(50)])
    assert found == {"pairs": [], "untold": [f"label{n}" for n in range(50)]}


def test_without_labels_nothing_is_said() -> None:
    assert confusions(np.zeros(9, np.int32), np.full(9, -1), []) == {"pairs": [], "untold": []}
