"""README: short, and its commands are those of the Makefile and of the jobs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from docs.check import Page

ROOT = Path(__file__).resolve().parents[1]
README = Page.of(ROOT / "README.md")


def test_it_fits_on_a_screen_or_two() -> None:
    assert len(README.text.splitlines()) <= 130


def test_two_commands_come_first() -> None:
    assert README.commands[:2] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("words", [w for w in README.commands if w[0] == "make"])
def test_make_knows_its_targets(words: list[str]) -> None:
    dry = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


def test_the_jobs_it_shows_are_a_whole_path() -> None:
    """From media to weights that others can use."""
    jobs = [words[1] for words in README.commands if words[0] == "python"]
    assert jobs[:3] == ["jobs/index.py", "jobs/pretrain.py", "jobs/export.py"]
