"""The job clusters vectors of any origin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mixture_factory import mixture

from jobs import cluster as job
from pipeline.clustering import read_labels
from pipeline.clustering.vector_files import as_features
from pipeline.errors import UserError
from pipeline.storage import Location

SETTINGS = ["clustering.k=6", "clustering.iterations=4", "clustering.pca_dim=0"]


def lists(x: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


@pytest.mark.usefixtures("local_ray")
def test_npy_and_parquet_give_the_same_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = mixture(400, 8, 6)
    np.save(tmp_path / "x.npy", x)
    Location.of(tmp_path / "x.parquet").write_table(pa.table({"v": lists(x)}))
    job.main([str(tmp_path / "x.npy"), str(tmp_path / "a"), *SETTINGS])
    job.main([str(tmp_path / "x.parquet"), str(tmp_path / "b"), *SETTINGS, "--column", "v"])
    a, b = (read_labels(Location.of(tmp_path / name), 400) for name in "ab")
    assert np.array_equal(a, b)
    assert np.array_equal(np.unique(a), np.arange(6))
    printed = capsys.readouterr()
    assert "400 of 400 rows in 6 clusters" in printed.out + printed.err


def test_feature_folders_are_used_as_they_are(tmp_path: Path) -> None:
    folder = Location.of(tmp_path / "f")
    table = pa.table({"clip_index": [4, 2], "features": lists(mixture(2, 3, 1))})
    (folder / "part-0.parquet").write_table(table)
    out = Location.of(tmp_path / "converted")
    assert as_features(folder, "features", out) == (folder, 5)
    assert not out.exists()


def test_conversion_is_done_once_for_the_same_source(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", mixture(70, 4, 2).astype(np.float64))
    out = Location.of(tmp_path / "converted")
    place = Location.of(tmp_path / "x.npy")
    assert as_features(place, "features", out) == (out, 70)
    written = (out / "part-00000.parquet").info().mtime
    assert as_features(place, "features", out) == (out, 70)
    assert (out / "part-00000.parquet").info().mtime == written
    np.save(tmp_path / "x.npy", mixture(50, 4, 2))
    assert as_features(place, "features", out) == (out, 50)


def test_what_is_no_vectors_is_rejected(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(5))
    out = Location.of(tmp_path / "out")
    with pytest.raises(UserError, match=r"int64\[5\]; want floats"):
        as_features(Location.of(tmp_path / "x.npy"), "features", out)
    Location.of(tmp_path / "x.parquet").write_table(pa.table({"v": [1.0]}))
    with pytest.raises(UserError, match="name one of v with --column"):
        as_features(Location.of(tmp_path / "x.parquet"), "features", out)
    with pytest.raises(UserError, match="no vectors in"):
        as_features(Location.of(tmp_path / "none"), "features", out)
