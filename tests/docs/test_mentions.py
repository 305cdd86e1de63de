"""What the documentation mentions exists; the checker finds what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import check
from docs.check import Page

PAGES = check.pages()


@pytest.mark.parametrize("page", PAGES, ids=[str(p.place.relative_to(check.ROOT)) for p in PAGES])
def test_a_page_says_nothing_wrong(page: Page) -> None:
    assert check.problems(page) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("See [this](nowhere.md).", "the link nowhere.md leads nowhere"),
        ("# One\n\nSee [two](#two).", "the link #two names a heading that is not there"),
        ("It is in `pipeline/nowhere.py`.", "there is no pipeline/nowhere.py"),
        ("Run `python -m pipeline.nowhere`.", "there is no module or name pipeline.nowhere"),
        ("Run `make coffee`.", "the Makefile has no target coffee"),
        ("```\nmake coffee\n```", "the Makefile has no target coffee"),
        ("Run `python jobs/index.py a b --fast`.", "jobs/index.py has no option --fast"),
        ("Set `clustering.kk=3`.", "there is no setting clustering.kk"),
        ("Set `clustering.kk`.", "there is no setting clustering.kk"),
        ("Set `clustering.k=many`.", "setting 'clustering.k'"),
        ("```\npython jobs/pretrain.py clustering.kk=3\n```", "there is no setting clustering.kk"),
        ('```\nmake submit JOB="jobs/pretrain.py round=3"\n```', "there is no setting round"),
        ("```yaml\nclustering: {kk: 3}\n```", "unknown setting 'clustering.kk'"),
        ("```python\nfrom pipeline.rounds import x\n```", "pipeline.rounds has no x"),
    ],
)
def test_what_is_wrong_is_found(text: str, problem: str, tmp_path: Path) -> None:
    place = tmp_path / "page.md"
    place.write_text(text)
    found = check.problems(Page.of(place))
    assert any(line.startswith(problem) for line in found), found


def test_a_message_that_no_code_gives_is_found(tmp_path: Path) -> None:
    place = tmp_path / "troubleshooting.md"
    place.write_text("**`unknown method …`**\n\n**`the moon is … full`**\n")
    assert check.problems(Page.of(place)) == ["no code says 'the moon is … full'"]


def test_placeholders_and_what_is_no_setting_pass(tmp_path: Path) -> None:
    place = tmp_path / "page.md"
    place.write_text("`run=PATH`, `tracking.mlflow=http://…`, `key=value`, `clustering.json`")
    assert check.problems(Page.of(place)) == []
