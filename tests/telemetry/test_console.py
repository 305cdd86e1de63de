"""What a job writes to the terminal."""

from __future__ import annotations

import pytest

from pipeline.telemetry.console import duration, say, table


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_tables_are_plain_aligned_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    wide = "long " * 40 + "end"
    text = table(["round", "probe [95%]", "NMI"], [["0", "[bold]0.5", "–"], ["10", ":tada:", wide]])
    head, rule, *rows = text.splitlines()
    assert head.split() == ["round", "probe", "[95%]", "NMI"]
    assert set(rule) == {"─"}
    starts = [[line.index(word) for line, word in zip((head, *rows), column)] for column in (
        ("round", "0", "10"), ("probe [95%]", "[bold]0.5", ":tada:"), ("NMI", "–", wide)
    )]  # fmt: skip
    assert all(len(set(column)) == 1 for column in starts), starts
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "\x1b" not in text


def test_a_table_without_rows() -> None:
    assert table(["a", "b"], []).splitlines()[0].split() == ["a", "b"]


def test_names_of_files_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b[31mred\r\x07.mp4 \u202e4pm.evil é 映画\n  next")
    told = r"\x1b[31mred\r\x07.mp4 \u202e4pm.evil é 映画"
    assert capsys.readouterr().out == f"{told}\n  next\n"
