"""How a whole file is cut into windows."""

from __future__ import annotations

import pytest

from pipeline.clips.windows import windows
from pipeline.config import IndexConfig


def dense(start_s: float, end_s: float, every_s: float, window_s: float) -> list[float]:
    """First seconds of the windows, which all have the length that was asked for."""
    found = windows(start_s, end_s, IndexConfig(window_s=window_s, every_s=every_s))
    assert all(end - start == pytest.approx(window_s) for start, end in found)
    return [start for start, _ in found]


def test_windows_lie_side_by_side_and_cover_the_file() -> None:
    assert windows(1.0, 26.0, IndexConfig(window_s=10)) == [(1.0, 13.5), (13.5, 26.0)]
    assert windows(0.0, 4.0, IndexConfig(window_s=10)) == [(0.0, 4.0)]


def test_dense_windows_begin_at_multiples_of_the_files_clock() -> None:
    assert dense(0.0, 4.0, 1.0, 2.0) == [0.0, 1.0, 2.0]
    assert dense(0.0, 4.0, 3.0, 0.5) == [0.0, 3.0], "with gaps, too"
    assert dense(5.2, 9.0, 1.0, 2.0) == [5.0, 6.0, 7.0], "its rows keep their number"
    # The last one is half a second outside, to the bit: 0.1 has no exact binary form.
    assert len(dense(0.0, 60.0, 0.1, 2.0)) == 586


def test_a_little_of_a_dense_window_may_lie_outside_the_file() -> None:
    """As where sound begins some milliseconds after the pictures."""
    assert dense(0.023, 3.98, 1.0, 2.0) == [0.0, 1.0, 2.0]
    assert dense(0.6, 3.3, 1.0, 2.0) == [1.0]


def test_a_file_shorter_than_a_dense_window_is_one() -> None:
    assert windows(0.1, 1.0, IndexConfig(window_s=2, every_s=0.5)) == [(0.1, 1.0)]
