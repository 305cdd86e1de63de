"""A stage's progress in a pipe and on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
import time
from collections.abc import Callable

import pytest

from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress

pytestmark = pytest.mark.usefixtures("local_ray")


class Screen:
    """A pseudo-terminal in place of standard output and error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._outside, inside = pty.openpty()
        os.set_blocking(self._outside, False)
        self._shown = b""
        self.stream = open(inside, "w")  # noqa: SIM115
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, self.stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "90")

    def seen(self) -> str:
        """All that has appeared so far."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._outside, 65536):
                self._shown += part
        return self._shown.decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._outside)


def waited(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def epoch(number: int) -> bool:
        said.extend(capsys.readouterr().out.splitlines())
        return any(f"epoch {number}" in line for line in said)

    with Progress("round 1/2 · learn video", 24, "clips") as progress:
        progress.meter.add({"epoch": 1}, done=8, rejects=2)
        waited(lambda: epoch(1))
        progress.meter.add({"epoch": 2}, done=64)
        waited(lambda: epoch(2))
    captured = capsys.readouterr()
    said += captured.out.splitlines()
    assert captured.err == ""
    assert said[0] == "round 1/2 · learn video · 8/24 clips · rejects 2 · epoch 1"
    line = r"round 1/2 · learn video · 24/24 clips · [\d,.]+/s · finishing · 48 repeated · "
    assert re.fullmatch(line + "rejects 2 · epoch 2", said[1])
    assert re.fullmatch(
        r"round 1/2 · learn video · 24 clips in \d+ s \([\d,.]+ clips/s\) · 48 repeated", said[2]
    )
    assert len(said) == 3
    assert progress.done == 72
    assert 0 < progress.start_s <= progress.seconds


def test_one_line_on_a_terminal() -> None:
    # Inside the test: pytest sets its own streams between a fixture and the test.
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(Screen(patch)) as screen:
        with Progress("embed video", 100, "clips") as progress:
            waited(lambda: "waiting for the first clips" in screen.seen())
            progress.meter.add({"waiting": "80% " + "of the time " * 10}, done=10)
            waited(lambda: "10/100 clips" in screen.seen())
            progress.meter.add(done=10)
            waited(lambda: bool(re.search(r"20/100 clips · [\d.]+/s · \d+ s left", screen.seen())))
            say("something else")
            waited(lambda: "something else" in screen.seen())
        final = screen.seen()
    assert "…" in final, "a line that is too long is cut"
    assert "of the time " * 6 not in final
    after = final[final.rindex("something else") :]
    assert "\x1b[2K" in after, "the live line is removed"
    assert "\x1b[?25h" in after, "the cursor is back"
    assert re.search(r"embed video · 20 clips in \d+ s \([\d.]+ clips/s\)\r\n$", after)
