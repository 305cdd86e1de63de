"""Protocols where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clips.table import ClipTable
from pipeline.config import ClipsConfig
from pipeline.errors import UserError
from pipeline.evaluation.classifiers import CLASSIFIERS, ClipFeatures, average, classify
from pipeline.evaluation.examples import Examples, clip_centres
from pipeline.evaluation.figures import FROZEN, accuracies, judge
from pipeline.evaluation.retrieval import recalls
from pipeline.storage import Location

CLASSES, EXAMPLES, CLIPS = 6, 240, 3


def examples(labels: np.ndarray, sources: np.ndarray, sides: list[str]) -> Examples:
    none = ClipTable(Location.of("nowhere"), (), np.zeros(1, np.int64))
    return Examples(
        clips=none,
        example=np.repeat(np.arange(len(labels)), CLIPS),
        labels=labels,
        classes=[f"class {c}" for c in range(CLASSES)],
        sources=sources,
        source_names=[f"film {s}" for s in range(sources.max() + 1)],
        splits={"1": np.array(sides, object)},
        windows=none,
    )


@pytest.fixture(scope="module")
def found() -> Examples:
    """Two examples a source, every third source for testing."""
    labels = np.random.default_rng(0).permutation(np.arange(EXAMPLES) % CLASSES)
    sources = np.arange(EXAMPLES) // 2
    return examples(labels, sources, ["test" if s % 3 == 0 else "train" for s in sources])


def one_hot(labels: np.ndarray, noise: float) -> ClipFeatures:
    example = np.repeat(np.arange(len(labels)), CLIPS)
    values = np.eye(16)[labels[example]] * 3
    values += np.random.default_rng(1).normal(0, noise, values.shape)
    return ClipFeatures(values.astype(np.float32), example)


@pytest.mark.parametrize("protocol", FROZEN)
def test_perfect_features_are_perfect(protocol: str, found: Examples) -> None:
    row = judge(protocol, one_hot(found.labels, 0.01), found, {"1": found.sides("1")}, seed=0)
    assert set(row["mean"].values()) == {1.0}


@pytest.mark.parametrize("protocol", ["linear", "svm", "knn", "retrieval"])
def test_labels_without_meaning_are_guessed_at_chance(protocol: str, found: Examples) -> None:
    other = np.random.default_rng(5).permutation(found.labels)
    row = judge(protocol, one_hot(other, 1.0), found, {"1": found.sides("1")}, seed=0)
    figure = next(iter(row["mean"].values()))
    # 80 test examples: four standard deviations about 1/6.
    assert abs(figure - 1 / CLASSES) < 4 * np.sqrt(1 / 6 * 5 / 6 / 80)
    low, high = row["by_split"]["1"]["interval"]
    assert low <= figure <= high


def test_clusters_of_labels_without_meaning_agree_with_nothing(found: Examples) -> None:
    other = np.random.default_rng(5).permutation(found.labels)
    row = judge("clusters", one_hot(other, 0.01), found, {"1": found.sides("1")}, seed=0)
    assert abs(row["mean"]["ami"]) < 0.1
    assert abs(row["mean"]["ari"]) < 0.1


def test_figures_of_splits_are_averaged(found: Examples) -> None:
    train, test = found.sides("1")
    half = len(test) // 2
    sides = {"a": (train, test[:half]), "b": (train, test[half:])}
    row = judge("knn", one_hot(found.labels, 2.0), found, sides, seed=0)
    a, b = (row["by_split"][name]["figures"]["accuracy"] for name in "ab")
    assert a != b
    assert row["mean"]["accuracy"] == pytest.approx((a + b) / 2)
    assert row["std"]["accuracy"] == pytest.approx(abs(a - b) / np.sqrt(2))


def test_the_same_source_on_both_sides_is_refused(found: Examples) -> None:
    sides = found.splits["1"].copy()
    sides[1] = "train"  # of film 0, whose other example is for testing
    leaky = examples(found.labels, found.sources, sides.tolist())
    with pytest.raises(UserError, match=r"1 source videos on both .*\(film 0\)"):
        leaky.sides("1")


def test_a_split_without_test_examples_is_refused(found: Examples) -> None:
    with pytest.raises(UserError, match="0 test examples"):
        examples(found.labels, found.sources, ["train"] * EXAMPLES).sides("1")


def test_unlabelled_examples_are_on_no_side(found: Examples) -> None:
    labels = found.labels.copy()
    labels[:10] = -1
    train, test = examples(labels, found.sources, found.splits["1"].tolist()).sides("1")
    assert min(train.min(), test.min()) >= 10
    assert len(train) + len(test) == EXAMPLES - 10


def test_averages_over_clips_by_hand() -> None:
    values = np.array([[1.0, 0.0], [3.0, 1.0], [5.0, 5.0], [0.0, 2.0], [0.0, 4.0]])
    which, means = average(values, np.array([2, 2, 4, 9, 9]))
    assert which.tolist() == [2, 4, 9]
    assert means.tolist() == [[2.0, 0.5], [5.0, 5.0], [0.0, 3.0]]


def test_decision_values_are_averaged_over_the_clips_of_an_example(found: Examples) -> None:
    """An example's values are the mean of what the same classifier says of each clip alone."""
    features = one_hot(found.labels, 1.0)
    train, test = found.sides("1")
    asked = test[:4]
    arguments = (found.labels, found.sources, train)
    together = classify(CLASSIFIERS["svm"], features, *arguments, asked, CLASSES, 0)
    # The same clips, each as an example of its own.
    own = features.example.copy()
    labels, sources = found.labels.tolist(), found.sources.tolist()
    mine = np.flatnonzero(np.isin(own, asked))
    for clip in mine:
        labels.append(found.labels[own[clip]])
        sources.append(found.sources[own[clip]])
        own[clip] = len(labels) - 1
    apart = classify(
        CLASSIFIERS["svm"],
        ClipFeatures(features.values, own),
        np.array(labels),
        np.array(sources),
        train,
        own[mine],
        CLASSES,
        0,
    )
    assert together.chosen == apart.chosen
    by_hand = apart.scores.reshape(4, CLIPS, CLASSES).mean(axis=1)
    np.testing.assert_allclose(together.scores, by_hand, rtol=1e-6)
    assert np.ptp(apart.scores.reshape(4, CLIPS, CLASSES), axis=1).min() > 0


def test_recall_by_hand() -> None:
    """Directions on the circle, in degrees: their order by angle is their order by distance."""
    gallery = [(10, 0), (20, 0), (30, 1), (40, 2), (50, 1), (60, 3)]
    asked = [(0, 1), (70, 3), (5, 2)]
    angles = np.deg2rad([angle for angle, _ in gallery + asked])
    values = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([label for _, label in gallery + asked])
    which, hits = recalls(ClipFeatures(values, np.arange(9)), labels, np.arange(6), np.arange(6, 9))
    assert which.tolist() == [6, 7, 8]
    # At 1: only the one at 70°. At 5: class 1 is third, class 2 fourth from 5°.
    assert hits[:, 0].tolist() == [False, True, False]
    assert hits[:, 1].tolist() == [True, True, True]


def test_accuracies_by_hand() -> None:
    scores = np.eye(7)[[0, 0, 1, 6]]
    scores[3] = [6, 5, 4, 3, 2, 1, 0]
    right, figures = accuracies(scores, np.array([0, 0, 0, 6]))
    assert right.tolist() == [1, 1, 0, 0]
    # Class 0 is right twice in three times, class 6 never, and last of seven.
    assert figures == pytest.approx({"accuracy": 0.5, "class_accuracy": 1 / 3, "top5": 0.75})


def test_a_class_that_was_never_trained_on_is_never_chosen() -> None:
    labels = np.array([0, 0, 1, 1, 0, 1, 2])
    values = np.eye(4, dtype=np.float32)[labels]
    verdict = classify(
        CLASSIFIERS["linear"],
        ClipFeatures(values, np.arange(7)),
        labels,
        np.arange(7),
        np.arange(4),
        np.arange(4, 7),
        3,
        0,
    )
    assert verdict.scores.argmax(axis=1)[:2].tolist() == [0, 1]
    assert np.isneginf(verdict.scores[:, 2]).all()


def test_clips_are_spaced_uniformly_over_the_window() -> None:
    config = ClipsConfig()  # a clip is 2 s of sound
    assert clip_centres(10.0, 20.0, config, 5).tolist() == [11.0, 13.0, 15.0, 17.0, 19.0]
    assert clip_centres(10.0, 20.0, config, 1).tolist() == [15.0]
