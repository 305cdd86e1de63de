"""Searching a table of vectors: for a file of it, and from pictures to sound."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.embed import main as embed
from pipeline.errors import UserError
from pipeline.storage import Location
from pipeline.vectors.across import fitted
from tests.clips.decoding.media_factory import GeneratedVideo, write


def test_a_file_of_the_table_is_nearest_to_itself(
    begun: Location,
    world: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    query = ["--encoder", str(begun), "--nearest"]
    with pytest.raises(UserError, match="has no finished vectors"):
        embed([str(world), str(tmp_path), *query, "film.mp4"])
    file = sorted(world.parent.rglob("*.mp4"))[7]
    capsys.readouterr()
    embed([str(world), str(whole), *query, str(file)])
    picture, sound, across = re.split(r"\n\n", capsys.readouterr().out.partition("\n\n")[2])
    for found, name in ((picture, "by picture"), (sound, "by sound")):
        title, _, _, first, *others = found.splitlines()
        assert title == name
        assert first.split()[0] == "1.000"
        assert first.endswith(str(file))
        assert len(others) == 9
    assert across.startswith("across, from its pictures to sound (CCA; too few files to measure")
    assert not list((whole / "work").glob("query*"))


def test_sound_is_found_by_pictures_that_share_something_with_it() -> None:
    """Held-out recall is far above chance where there is a common cause, and at chance without."""
    rng = np.random.default_rng(3)
    common = rng.normal(size=(1500, 12))
    files = np.repeat(np.arange(500), 3)
    video, audio = (
        common @ rng.normal(size=(12, 64)) + 0.3 * rng.normal(size=(1500, 64)) for _ in range(2)
    )
    found = fitted(video, audio, files)
    assert found is not None
    agreement = found.agreement
    assert agreement is not None
    assert 70 < agreement.gallery < 130, "a clip of each held-out file"
    assert agreement.recall > 0.9
    assert agreement.chance == pytest.approx(10 / agreement.gallery)
    unrelated = fitted(video, rng.permutation(audio), files)
    assert unrelated is not None
    assert unrelated.agreement is not None
    assert unrelated.agreement.recall < 4 * unrelated.agreement.chance


def test_few_clips_are_not_fitted() -> None:
    few = np.zeros((5, 8), np.float32)
    assert fitted(few, few, np.arange(5)) is None


def test_pictures_alone_have_no_search_across(
    begun: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    for name in "ab":
        write(media / f"{name}.mp4", GeneratedVideo(seconds=1.2, audio=None))
    arguments = [str(media), str(out), "--encoder", str(begun)]
    embed(arguments)
    capsys.readouterr()
    embed([*arguments, "--nearest", str(media / "b.mp4")])
    said = capsys.readouterr().out
    assert "by picture" in said
    assert "by sound" not in said
    assert "across" not in said
