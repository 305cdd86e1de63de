"""Vectors in feature files, as an embedding pass leaves them, without a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.clustering.transform import Transform
from pipeline.config import ClusteringConfig
from pipeline.curation.clustered_clips import VectorSpace
from pipeline.storage import Location


@pytest.fixture
def space_of(tmp_path: Path) -> Callable[..., VectorSpace]:
    """Rows [n, d] as the features of clips 0..n-1, of which some lack; brought to length one."""

    def write(
        values: np.ndarray, name: str = "video", lacking: tuple[int, ...] = ()
    ) -> VectorSpace:
        folder = Location.of(tmp_path / "features" / name)
        clips = np.setdiff1d(np.arange(len(values)), lacking)
        for number, some in enumerate(np.array_split(clips, 2)):
            flat = pa.array(values[some].astype(np.float16).ravel())
            columns = {
                "clip_index": pa.array(some),
                "features": pa.FixedSizeListArray.from_arrays(flat, values.shape[1]),
            }
            (folder / f"part-{number}.parquet").write_table(pa.table(columns))
        config = ClusteringConfig(pca_dim=0)
        transform = Transform.fit((values.shape[1],), 8.0, None, config)
        return VectorSpace((folder,), transform)

    return write
