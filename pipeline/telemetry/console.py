"""What a job writes to the terminal: lines, durations, tables, and one line kept up to date."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from pipeline.errors import visible

_NARROW = 110  # columns, below which the text takes the place of the bar


_said = ""  # last, by `say`


def say(text: str) -> None:
    """Print one line for the user at once, also when standard output is a pipe."""
    global _said
    _said = visible(text)
    print(_said, flush=True)


def last_said() -> str:
    return _said


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns below their headers, as plain text without a final newline; a cell a header."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    # `Text`, because a plain string is markup to rich: it would swallow "[all]".
    for header in headers:
        grid.add_column(Text(header))
    for row in rows:
        grid.add_row(*map(Text, row))
    page = io.StringIO()
    # Wide, so that lines are never broken: they also go to files and pipes.
    Console(file=page, width=10_000, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


class LiveLine:
    """One line on standard error below what is printed, with a bar if it fits, until `close`."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        text = TextColumn("{task.description}", markup=False, table_column=one_line)
        self._bars = Bars(
            *([BarColumn(20)] if console.width >= _NARROW else []),
            text,
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=4,
            # Lines for a pipe must not end up on the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bars.add_task("", total=None)
        self._bars.start()

    @staticmethod
    def is_possible() -> bool:
        """Whether standard error is a terminal that can move its cursor."""
        return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal

    def show(self, text: str, done: int, total: int) -> None:
        """Replace the text; the bar is in motion as long as nothing is done."""
        end = total if done else None
        self._bars.update(self._task, description=text, completed=done, total=end)

    def close(self) -> None:
        self._bars.stop()
