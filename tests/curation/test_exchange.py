"""Windows divide numbered clips; the exchange brings each window its vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curation import exchange as exchange_module
from pipeline.curation.clustered_clips import VectorSpace
from pipeline.curation.exchange import Exchange, Windows
from pipeline.errors import UserError
from pipeline.storage import Location


@settings(deadline=None, max_examples=50)  # other work may share the cores
@given(st.lists(st.integers(-1, 6), max_size=60), st.integers(1, 12))
def test_every_clip_with_a_number_is_in_one_window(given: list[int], rows: int) -> None:
    numbers = np.array(given, np.int32)
    found = Windows.of(numbers, rows)
    assert np.array_equal(found.of_clip >= 0, numbers >= 0)
    split = {w for first, last in found.split.tolist() for w in range(first, last + 1)}
    pairs = 0
    for window in np.unique(found.of_clip[found.of_clip >= 0]).tolist():
        inside = numbers[found.of_clip == window]
        assert found.sizes[window] == len(inside) <= 2 * rows
        if window in split:
            assert len(inside) <= rows
            assert len(np.unique(inside)) == 1
        else:  # its numbers are whole
            assert len(inside) == np.isin(numbers, inside).sum()
        each = np.unique(inside, return_counts=True)[1]
        assert found.pairs[window] == (each * (each - 1) // 2).sum()
        pairs += int(found.pairs[window])
    for first, last in found.split.tolist():
        sizes = found.sizes[first : last + 1]
        pairs += (sizes.sum() ** 2 - (sizes**2).sum()) // 2
    counts = np.unique(numbers[numbers >= 0], return_counts=True)[1]
    assert pairs == (counts * (counts - 1) // 2).sum()


def test_a_window_gets_the_vectors_of_its_clips(
    space_of: Callable[..., VectorSpace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "RANGE_CLIPS", 16)
    random = np.random.default_rng(0)
    values = [random.normal(size=(50, d)) for d in (5, 3)]
    spaces = [space_of(values[0]), space_of(values[1], "audio", lacking=(7, 20))]
    numbers = random.integers(-1, 4, 50).astype(np.int32)
    windows = Windows.of(numbers, rows=8)
    exchange = Exchange.of(Location.of(tmp_path / "vectors"), spaces, windows)
    for at in range(4):
        some = slice(16 * at, 16 * at + 16)
        exchange.write(at, numbers[some], windows.of_clip[some])
    met = []
    for window in range(len(windows)):
        rows = exchange.read(window)
        assert np.array_equal(rows.numbers, numbers[rows.clips])
        assert np.array_equal(windows.of_clip[rows.clips], np.full(len(rows.clips), window))
        assert np.array_equal(np.lexsort((rows.clips, rows.numbers)), np.arange(len(rows.clips)))
        for space, (left, right) in enumerate(((0, 6), (6, 10))):
            wanted = values[space][rows.clips].astype(np.float16).astype(np.float64)
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
            lacks = np.isin(rows.clips, (7, 20)) & (space == 1)
            found = rows.vectors[:, left:right].astype(np.float64)
            assert np.allclose(found[~lacks, :-1], wanted[~lacks], atol=2e-3)
            assert np.array_equal(found[:, -1], lacks)
            assert not found[lacks, :-1].any()
        met += rows.clips.tolist()
    assert sorted(met) == np.flatnonzero(numbers >= 0).tolist()
    place = tmp_path / "vectors" / "range-000000"
    data = bytearray(place.read_bytes())
    data[3] ^= 1
    first = int(np.flatnonzero(exchange.counts[0])[0])
    place.write_bytes(data)
    with pytest.raises(UserError, match="has changed since it was written: delete"):
        exchange.read(first)
