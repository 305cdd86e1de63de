"""All pairs of a cluster, by blocks and windows, against the plain matrix of all cosines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from pipeline.curation import near_pairs
from pipeline.curation.clustered_clips import VectorSpace
from pipeline.curation.exchange import Exchange, Windows
from pipeline.curation.near_pairs import FindPairs, cosines, groups, unit_rows
from pipeline.storage import Location

LEAST = 0.97


def copied(random: np.random.Generator, d: int, of: np.ndarray) -> np.ndarray:
    """float [n, d]: rows that are near to each other where `of` says that they show the same."""
    centres = random.normal(size=(of.max() + 1, d))
    return centres[of] + 0.05 * random.normal(size=(len(of), d))


@pytest.mark.parametrize("rows", [1000, 40, 7])
def test_groups_are_those_of_all_pairs(
    rows: int, space_of: Callable[..., VectorSpace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "BLOCK_ROWS", 5)
    random = np.random.default_rng(1)
    of = random.integers(0, 90, 150)
    # Alike in sound alone, and in both.
    audio_of = np.where(random.random(150) < 0.3, 0, of)
    values = copied(random, 8, of), copied(random, 6, audio_of)
    lacking = (2, 3, 30)
    spaces = [space_of(values[0]), space_of(values[1], "audio", lacking)]
    numbers = (of % 4).astype(np.int32)
    numbers[random.random(150) < 0.1] = -1
    windows = Windows.of(numbers, rows)
    exchange = Exchange.of(Location.of(tmp_path / "vectors"), spaces, windows)
    exchange.write(0, numbers, windows.of_clip)
    search = FindPairs.of(exchange, windows, LEAST, Location.of(tmp_path / "links"))
    assert sum(search(n)["done"] for n in range(len(search.work))) == search.pairs.sum()
    found = groups(list(search.links()), 150)

    whole = np.concatenate([s.read(np.arange(150), 0, 150) for s in spaces], axis=1)
    whole = unit_rows(whole, exchange.edges)
    near = cosines(whole, whole, exchange.edges) >= LEAST
    near &= (numbers[:, None] == numbers) & (numbers >= 0)
    _, wanted = connected_components(near, directed=False)
    sizes = np.bincount(wanted)[wanted]
    assert np.array_equal(found >= 0, sizes > 1)
    for group in range(found.max() + 1):
        members = np.flatnonzero(found == group)
        assert np.array_equal(members, np.flatnonzero(wanted == wanted[members[0]]))


def test_what_both_lack_is_alike(space_of: Callable[..., VectorSpace]) -> None:
    same = np.ones((4, 3))
    spaces = [space_of(same), space_of(same, "audio", lacking=(0, 1))]
    rows = np.concatenate([s.read(np.arange(4), 0, 4) for s in spaces], axis=1).astype(float)
    found = cosines(rows, rows, np.array([0, 4, 8]))
    both = np.array([True, True, False, False])
    assert np.allclose(found, (both[:, None] == both).astype(float), atol=1e-3)


def test_nothing_near_is_no_group() -> None:
    assert (groups([], 5) == -1).all()
