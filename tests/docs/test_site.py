"""The site: every page is in its menu, and links out of docs/ do not break it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from docs.hooks import on_page_markdown

ROOT = Path(__file__).resolve().parents[2]


def test_every_page_is_in_the_menu() -> None:
    def files(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [name for part in inner for name in files(part)]

    menu = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert sorted(menu) == sorted(pages)


@pytest.mark.parametrize(
    ("source", "repository", "text", "expected"),
    [
        ("a.md", None, "[x.py](../pipeline/x.py)", "`x.py`"),
        ("a.md", None, "[a chart](../x.png)", "a chart"),
        ("a.md", "https://h/r/", "[x](../p/x.py)", "[x](https://h/r/blob/HEAD/p/x.py)"),
        ("reference/a.md", "https://h/r", "[x](../../p/x.py)", "[x](https://h/r/blob/HEAD/p/x.py)"),
        ("reference/a.md", None, "[b](../b.md)", "[b](../b.md)"),
        ("a.md", None, "[b](b.md)", "[b](b.md)"),
    ],
)
def test_links_out_of_the_site(
    source: str, repository: str | None, text: str, expected: str
) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
    config = SimpleNamespace(repo_url=repository)
    assert on_page_markdown(text, page=page, config=config, files=None) == expected
