"""Protocols where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import ClipsConfig
from pipeline.errors import UserError
from pipeline.evaluation.classifiers import CLASSIFIERS, ClipFeatures, average, fit
from pipeline.evaluation.examples import clip_centres
from pipeline.evaluation.figures import FROZEN, accuracies, evaluate_features, recalls
from pipeline.evaluation.splits import LabelledExamples, Split

CLASSES, EXAMPLES, CLIPS = 6, 240, 3


def examples(labels: np.ndarray, sources: np.ndarray, sides: list[str]) -> LabelledExamples:
    return LabelledExamples(
        labels=labels,
        classes=[f"class {c}" for c in range(CLASSES)],
        sources=sources,
        source_names=[f"video {s}" for s in range(sources.max() + 1)],
        sides={"1": np.array(sides, object)},
    )


@pytest.fixture(scope="module")
def found() -> LabelledExamples:
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
def test_perfect_features_are_perfect(protocol: str, found: LabelledExamples) -> None:
    row = evaluate_features(
        protocol, one_hot(found.labels, 0.01), found, {"1": found.split("1")}, seed=0
    )
    assert set(row["mean"].values()) == {1.0}


@pytest.mark.parametrize("protocol", ["linear", "svm", "knn", "retrieval"])
def test_labels_without_meaning_are_guessed_at_chance(
    protocol: str, found: LabelledExamples
) -> None:
    other = np.random.default_rng(5).permutation(found.labels)
    row = evaluate_features(protocol, one_hot(other, 1.0), found, {"1": found.split("1")}, seed=0)
    figure = next(iter(row["mean"].values()))
    # 80 test examples: four standard deviations about 1/6.
    assert abs(figure - 1 / CLASSES) < 4 * np.sqrt(1 / 6 * 5 / 6 / 80)
    low, high = row["by_split"]["1"]["interval"]
    assert low <= figure <= high


def test_clusters_of_labels_without_meaning_agree_with_nothing(found: LabelledExamples) -> None:
    other = np.random.default_rng(5).permutation(found.labels)
    row = evaluate_features(
        "clusters", one_hot(other, 0.01), found, {"1": found.split("1")}, seed=0
    )
    assert abs(row["mean"]["ami"]) < 0.1
    assert abs(row["mean"]["ari"]) < 0.1


def test_figures_of_splits_are_averaged(found: LabelledExamples) -> None:
    split = found.split("1")
    half = len(split.test) // 2
    splits = {
        "a": Split(split.train, split.test[:half]),
        "b": Split(split.train, split.test[half:]),
    }
    row = evaluate_features("knn", one_hot(found.labels, 2.0), found, splits, seed=0)
    a, b = (row["by_split"][name]["figures"]["accuracy"] for name in "ab")
    assert a != b
    assert row["mean"]["accuracy"] == pytest.approx((a + b) / 2)
    assert row["std"]["accuracy"] == pytest.approx(abs(a - b) / np.sqrt(2))


def test_the_same_source_on_both_sides_is_rejected(found: LabelledExamples) -> None:
    sides = found.sides["1"].copy()
    sides[1] = "train"  # of video 0, whose other example is for testing
    leaky = examples(found.labels, found.sources, sides.tolist())
    with pytest.raises(UserError, match=r"1 source videos on both .*\(video 0\)"):
        leaky.split("1")


def test_a_split_without_test_examples_is_rejected(found: LabelledExamples) -> None:
    with pytest.raises(UserError, match="0 test examples"):
        examples(found.labels, found.sources, ["train"] * EXAMPLES).split("1")


def test_unlabelled_examples_are_on_no_side(found: LabelledExamples) -> None:
    labels = found.labels.copy()
    labels[:10] = -1
    split = examples(labels, found.sources, found.sides["1"].tolist()).split("1")
    assert min(split.train.min(), split.test.min()) >= 10
    assert len(split.train) + len(split.test) == EXAMPLES - 10


def test_averages_over_clips_by_hand() -> None:
    values = np.array([[1.0, 0.0], [3.0, 1.0], [5.0, 5.0], [0.0, 2.0], [0.0, 4.0]])
    which, means = average(values, np.array([2, 2, 4, 9, 9]))
    assert which.tolist() == [2, 4, 9]
    assert means.tolist() == [[2.0, 0.5], [5.0, 5.0], [0.0, 3.0]]


def test_decision_values_are_averaged_over_the_clips_of_an_example(found: LabelledExamples) -> None:
    """An example's values are the mean of what the same classifier says of each clip alone."""
    features = one_hot(found.labels, 1.0)
    split = found.split("1")
    asked = split.test[:4]
    fitted = fit(CLASSIFIERS["svm"], features, found, split.train, 0)
    _, together = fitted.predict(features, asked)
    # The same clips, each as an example of its own.
    own = features.example.copy()
    mine = np.flatnonzero(np.isin(own, asked))
    own[mine] = EXAMPLES + np.arange(len(mine))
    _, apart = fitted.predict(ClipFeatures(features.values, own), own[mine])
    by_clip = apart.reshape(4, CLIPS, CLASSES)
    np.testing.assert_allclose(together, by_clip.mean(axis=1), rtol=1e-6)
    assert np.ptp(by_clip, axis=1).min() > 0


def test_recall_by_hand() -> None:
    """Directions on the circle, in degrees: their order by angle is their order by distance."""
    gallery = [(10, 0), (20, 0), (30, 1), (40, 2), (50, 1), (60, 3)]
    asked = [(0, 1), (70, 3), (5, 2)]
    angles = np.deg2rad([angle for angle, _ in gallery + asked])
    values = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([label for _, label in gallery + asked])
    which, hits = recalls(
        ClipFeatures(values, np.arange(9)), labels, Split(np.arange(6), np.arange(6, 9))
    )
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
    features = ClipFeatures(np.eye(4, dtype=np.float32)[labels], np.arange(7))
    data = examples(labels, np.arange(7), [""] * 7)
    fitted = fit(CLASSIFIERS["linear"], features, data, np.arange(4), 0)
    _, scores = fitted.predict(features, np.arange(4, 7))
    assert scores.argmax(axis=1)[:2].tolist() == [0, 1]
    assert np.isneginf(scores[:, 2:]).all()


@pytest.mark.parametrize("protocol", CLASSIFIERS)
def test_one_source_and_one_class_in_training(protocol: str) -> None:
    """No source is left to choose the strength on; the one class is the answer to everything."""
    labels = np.array([1, 1, 1, 1, 0])
    data = examples(labels, np.array([0, 0, 0, 0, 1]), ["train"] * 3 + ["test"] * 2)
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    split = Split(np.arange(3), np.arange(3, 5))
    row = evaluate_features(protocol, ClipFeatures(values, np.arange(5)), data, {"1": split}, 0)
    assert row["mean"]["accuracy"] == row["by_split"]["1"]["chance"] == 0.5


def test_splits_with_one_training_side_are_fitted_alike(found: LabelledExamples) -> None:
    """Together and one by one, the splits of a shared fit have the same figures."""
    split = found.split("1")
    halves = {"a": split.test[::2], "b": split.test[1::2]}
    splits = {name: Split(split.train, half) for name, half in halves.items()}
    features = one_hot(found.labels, 2.0)
    together = evaluate_features("linear", features, found, splits, 0)["by_split"]
    for name, one in splits.items():
        alone = evaluate_features("linear", features, found, {name: one}, 0)["by_split"]
        assert together[name] == alone[name]


def test_clips_are_spaced_uniformly_over_the_window() -> None:
    config = ClipsConfig()  # a clip is 2 s of audio
    assert clip_centres(10.0, 20.0, config, 5).tolist() == [11.0, 13.0, 15.0, 17.0, 19.0]
    assert clip_centres(10.0, 20.0, config, 1).tolist() == [15.0]
