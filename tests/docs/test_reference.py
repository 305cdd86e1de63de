"""The generated pages: up to date, and made of what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from docs import reference
from pipeline.clips.rejects import Reason
from pipeline.config import Config
from pipeline.setting_comments import field_comments
from pipeline.settings import load


def test_the_committed_pages_are_up_to_date() -> None:
    for place, text in reference.pages().items():
        assert place.read_text() == text, "run docs/reference.py"


def test_every_setting_is_on_its_page_once() -> None:
    page = reference.settings_page()
    keys = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert {"seed", "clustering.k", "clips.audio.rate"} <= set(keys)
    assert f"There are {len(keys)} settings" in page


def test_the_defaults_on_the_page_are_the_defaults() -> None:
    page = reference.settings_page()
    rows = re.findall(r"^\| `([\w.]+)` \|[ ●]*\| `(.*?)` \|", page, re.MULTILINE)
    assert load([f"{key}={value}" for key, value in rows]) == Config()


def test_every_reason_of_a_reject_is_on_its_page() -> None:
    page = reference.files_page()
    assert all(f"| `{reason.value}` |" in page for reason in Reason)


def test_comments_above_and_beside_belong_to_a_field(tmp_path: Path) -> None:
    place = tmp_path / "commented.py"
    place.write_text(
        """\
class A:
    # Above,
    # in two lines.
    x: int = 1  # beside

    # Of the next one.
    y: int = (
        2  # inside
    )
    z: int = 3
"""
    )
    spec = importlib.util.spec_from_file_location("commented", place)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert field_comments(module) == {
        ("A", "x"): "Above, in two lines. beside",
        ("A", "y"): "Of the next one. inside",
    }


def test_settings_that_may_change_are_marked() -> None:
    page = reference.settings_page()
    marked = set(re.findall(r"^\| `([\w.]+)` \| ● \|", page, re.MULTILINE))
    assert {"rounds", "clustering.shards", "resources.device", "store.place"} <= marked
    assert not {"seed", "method", "clustering.k", "clips.video.size"} & marked
