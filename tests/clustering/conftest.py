"""Real Ray, real files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import numpy as np
import pyarrow as pa
import pytest
import ray

from pipeline.storage import Location


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=4, include_dashboard=False, object_store_memory=400_000_000)
    yield
    if ours:
        ray.shutdown()


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


def mixture(n: int, d: int, classes: int, seed: int = 0, spread: float = 0.3) -> np.ndarray:
    """float32[n, d] around ``classes`` random centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, d))
    members = random.integers(classes, size=n)
    return (centres[members] + spread * random.standard_normal((n, d))).astype(np.float32)
