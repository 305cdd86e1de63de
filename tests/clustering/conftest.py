"""Real files; Ray comes from the fixture that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.storage import Location


@pytest.fixture
def write_features(tmp_path: Path) -> Callable[..., Location]:
    """Write features the way an embedding stage does: several parts, rows in any order."""

    def write(
        features: np.ndarray,
        index: np.ndarray | None = None,
        name: str = "features",
        parts: int = 3,
        dtype: type = np.float16,
    ) -> Location:
        folder = Location.of(tmp_path / name)
        index = np.arange(len(features)) if index is None else index
        order = np.random.default_rng(7).permutation(len(features))
        for number, rows in enumerate(np.array_split(order, parts)):
            values = pa.array(features[rows].astype(dtype).ravel())
            columns = {
                "clip_index": pa.array(index[rows].astype(np.int64)),
                "features": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
            }
            (folder / f"part-{number}.parquet").write_table(pa.table(columns), row_group_size=300)
        return folder

    return write
