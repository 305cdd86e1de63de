"""The generated world's dials, and files with several cuts."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import av
import numpy as np

from pipeline.synthetic import SyntheticWorld, render_audio, render_frames, write_world


def test_a_dial_weakens_one_modality() -> None:
    even = SyntheticWorld(difficulty=0.2)
    for name, (picture, sound) in {
        "hard_picture": (True, False),
        "hard_sound": (False, True),
    }.items():
        turned = SyntheticWorld(difficulty=0.2, **{name: 0.5})
        assert (turned.contrast < even.contrast) == picture
        assert (turned.level < even.level) == sound
    assert SyntheticWorld(difficulty=0.9, hard_picture=0.9).contrast > 0.1


def test_a_steady_picture_shows_its_class_alone() -> None:
    def shown(steady: float, kind: int, seed: int) -> np.ndarray:
        world = SyntheticWorld(size=48, seconds=0.1, steady_picture=steady)
        return render_frames(world, kind, np.random.default_rng(seed))[0].astype(float)

    def apart(steady: float) -> float:
        """How far two files of a class differ, in their scenes, which hold no object."""
        first, other = (shown(steady, 0, seed)[:4, :4] for seed in (1, 2))
        return float(np.abs(first.mean((0, 1)) - other.mean((0, 1))).max())

    assert apart(1.0) < 3 < apart(0.5) < apart(0.0)
    classes = [shown(1.0, kind, 1) for kind in (0, 3)]
    assert np.abs(classes[0] - classes[1]).max() > 60


def test_cuts_of_a_file_have_classes_of_their_own_in_one_split(tmp_path: Path) -> None:
    world = SyntheticWorld(classes=4, size=48, seconds=0.5, clips=2)
    with write_world(tmp_path, 6, world).open() as stream:
        rows = list(csv.DictReader(stream))
    assert Counter(row["label"] for row in rows) == {f"class{kind}": 3 for kind in range(4)}
    assert [(row["start_s"], row["end_s"]) for row in rows[:2]] == [("0.0", "0.5"), ("0.5", "1.0")]
    assert len({(row["uri"], row["split"]) for row in rows}) == 6
    with av.open(str(tmp_path / rows[0]["uri"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 24


def test_what_is_private_stays_the_same_within_a_file() -> None:
    world = SyntheticWorld(size=48, seconds=0.5)

    def cut(kind: int, of_file: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        pictures, sounds = (np.random.default_rng((m, of_file)) for m in (1, 2))
        grain, hiss = (np.random.default_rng((m, of_file, number)) for m in (1, 2))
        return (
            render_frames(world, kind, pictures, grain).astype(float),
            render_audio(world, kind, sounds, hiss),
        )

    (scene, sound), (other, other_sound) = cut(0, 5, 1), cut(3, 5, 2)
    corner = np.abs(scene[:, :4, :4].mean(0) - other[:, :4, :4].mean(0)).max()
    assert corner < 15, "the scene, up to its grain"
    assert np.abs(scene - other).max() > 60, "another object"
    assert np.abs(sound).max() == np.float32(np.abs(other_sound).max()), "the loudness"
    assert not np.allclose(sound, other_sound)
    first, again = cut(0, 5, 1), cut(0, 5, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
