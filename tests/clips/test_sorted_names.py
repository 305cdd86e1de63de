"""Long lists in little memory: names in order, chunks that stay, keys of inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.clips import sorted_names
from pipeline.clips.chunks import FILES_PER_TASK, chunk_ends
from pipeline.clips.cut_tables import SCHEMA, cut_id
from pipeline.clips.input_keys import among, cut_ids, distinct, id_keys, keys_of, repeated, uri_keys
from pipeline.clips.sorted_names import SortedNames
from pipeline.storage import Location


@pytest.mark.parametrize("count", [0, 1, 6, 7, 100])
def test_names_come_in_pythons_order(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_names, "NAMES_PER_RUN", 7)
    monkeypatch.setattr(sorted_names, "NAMES_PER_BLOCK", 3)
    rng = np.random.default_rng(0)
    signs = [*"ab/-. \n\0é", "\uffee", "\U0001f600", "\udce9", "\udcff"]
    given = sorted({"".join(rng.choice(signs, rng.integers(1, 9))) for _ in range(4 * count)})
    given = [str(name) for name in rng.permutation(given)[:count]] if count else []
    names = SortedNames(Location.of(tmp_path), keep=lambda name: len(name) > 1)
    for start in range(0, count, 5):
        names.add(given[start : start + 5])
    wanted = sorted(name for name in given if len(name) > 1)
    assert [*names] == [*names] == wanted
    assert len(names) == len(wanted)
    assert bool([*tmp_path.iterdir()]) == (len(wanted) >= 7)


def chunks_of(keys: np.ndarray) -> list[bytes]:
    return [part.tobytes() for part in np.split(keys, chunk_ends(keys))]


def test_a_name_that_comes_or_goes_changes_the_chunks_around_it() -> None:
    keys = np.random.default_rng(0).integers(0, 2**63, 5000, dtype=np.uint64)
    before = chunks_of(keys)
    assert b"".join(before) == keys.tobytes()
    sizes = [len(part) // 8 for part in before]
    assert max(sizes) <= 4 * FILES_PER_TASK
    assert FILES_PER_TASK / 2 < np.mean(sizes) < 2 * FILES_PER_TASK
    for other in (np.insert(keys, 1234, 5), np.delete(keys, 1234), np.append(keys[100:], keys[0])):
        lost = set(before) - set(chunks_of(other))
        assert sum(map(len, lost)) / 8 < 100 + 3 * 4 * FILES_PER_TASK


def test_cuts_of_a_file_stay_in_one_chunk() -> None:
    keys = np.repeat(np.random.default_rng(0).integers(0, 2**63, 300, dtype=np.uint64), 7)
    ends = chunk_ends(keys)
    assert len(ends)
    assert not (ends % 7).any()


@pytest.mark.parametrize("large", [1.0, 1e200])
def test_cut_ids_are_those_of_single_rows(large: float) -> None:
    rng = np.random.default_rng(0)
    start = [None, -0.0001, 0.0005, 1.0015, *(rng.normal(size=50) * 1e4)]
    end = [None, 0.0, 2.5, large, *(rng.normal(size=50) * 1e4)]
    columns = {"uri": [f"/é/{n}" for n in range(54)], "start_s": start, "end_s": end}
    columns |= {"label": [None] * 54, "split": [None] * 54}
    rows = pa.table(columns, schema=SCHEMA)
    ids = cut_ids(rows)
    assert ids.to_pylist() == [cut_id(*cut) for cut in zip(columns["uri"], start, end)]
    keys = keys_of(rows["uri"], ids)
    assert keys[1:].tolist() == [int(text, 16) for text in ids.to_pylist()[1:]]
    assert keys[0] == uri_keys(rows["uri"])[0]
    assert id_keys(ids.slice(3, 5)).tolist() == keys[3:8].tolist()
    odd = pa.chunked_array([["x", None, "0123456789abcdeG", "0123456789abcdef"]])
    assert id_keys(odd).tolist() == [0, 0, 0, 0x0123456789ABCDEF]


def test_sets_of_keys() -> None:
    parts = [np.array(part, np.uint64) for part in ([5, 1, 5], [], [2, 1, 9])]
    assert distinct(parts).tolist() == [1, 2, 5, 9]
    assert distinct([]).tolist() == []
    again, count = repeated(parts)
    assert (again.tolist(), count) == ([1, 5], 4)
    known = distinct(parts)
    assert among(np.array([9, 3, 10, 1], np.uint64), known).tolist() == [True, False, False, True]
    assert among(known, distinct([])).tolist() == [False] * 4
