"""Ranges of sealed Parquet files: the right rows, few bytes, and no damaged one among them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sealed_parquet
from pipeline.manifest import Damaged, Entry, Manifest
from pipeline.sealed_parquet import read_range, sorted_parquet
from pipeline.storage import Location
from tests.conftest import s3_uri

ROWS, DIM, HIGHEST = 3000, 16, 100_000


def rows(dtype: str) -> pa.Table:
    rng = np.random.default_rng(0)
    values = pa.array(rng.standard_normal(ROWS * DIM).astype(dtype))
    features = pa.FixedSizeListArray.from_arrays(values, DIM)
    return pa.table({"clip": rng.permutation(HIGHEST)[:ROWS], "features": features})


@pytest.fixture(params=["disk", "bucket"])
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Manifest:
    folder = Location.of(tmp_path)
    if request.param == "bucket":
        folder = Location.of(s3_uri("media/features", request.getfixturevalue("s3")))
    data, entry = sorted_parquet(rows("float16"), "clip")
    (folder / "part").write_bytes(data)
    return Manifest(folder, {"part": entry}, {})


@pytest.mark.parametrize(
    ("start", "stop"), [(0, HIGHEST), (0, 1), (40_000, 43_000), (99_000, 200_000), (-9, -3)]
)
def test_a_range_has_its_rows_and_few_others(sealed: Manifest, start: int, stop: int) -> None:
    found = read_range(sealed, "part", "clip", start, stop)
    within = found.filter((found["clip"].to_numpy() >= start) & (found["clip"].to_numpy() < stop))
    whole = rows("float16").sort_by("clip")
    clips = whole["clip"].to_numpy()
    assert within.equals(whole.filter((clips >= start) & (clips < stop)))
    assert len(found) - len(within) <= 2 * sealed_parquet._GROUP_ROWS
    assert sealed_parquet.schema(sealed, "part") == whole.schema


@given(st.integers(0, 2**31), st.integers(0, 7))
def test_no_changed_bit_is_believed(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    whole = rows("float32")
    data, entry = sorted_parquet(whole, "clip")
    folder, changed = Location.of(tmp_path_factory.mktemp("x")), bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    (folder / "part").write_bytes(bytes(changed))
    # Nobody reads the mark at the file's beginning, or a page's statistics.
    with suppress(Damaged):
        found = read_range(Manifest(folder, {"part": entry}, {}), "part", "clip", 0, HIGHEST)
        assert found.equals(whole.sort_by("clip"))


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "it has 0 bytes"), (None, "it is gone"), (b"x", "it has 1 bytes")]
)
def test_a_file_that_was_cut(sealed: Manifest, content: bytes | None, words: str) -> None:
    place = sealed.folder / "part"
    place.delete() if content is None else place.write_bytes(content)
    with pytest.raises(Damaged, match=words):
        read_range(sealed, "part", "clip", 0, HIGHEST)


def test_files_of_older_releases_have_no_ranges() -> None:
    assert not sealed_parquet.has_ranges(Entry.of(b"abc", first=0, last=9))
    assert sealed_parquet.has_ranges(sorted_parquet(rows("float16"), "clip")[1])
