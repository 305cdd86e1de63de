"""The scripts of examples/, as a user calls them, and the files that a run leaves as documented."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]


def example(name: str) -> Callable[..., Any]:
    """The `main` of an example."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


@pytest.fixture(scope="module")
def run(world: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("examples") / "run"
    example("pretrain_folder")(str(world.parent), str(place), *TINY)
    return place


def test_a_folder_ends_in_encoders(run: Path) -> None:
    assert (run / "LATEST").read_text() == "1\n"
    assert (run / "rounds/0001/encoders.safetensors").stat().st_size > 0
    assert pq.read_table(run / "clips").num_rows == 48


def test_weights_are_adapted(
    run: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "adapted"
    example("adapt_weights")(str(world), str(place), str(run), *TINY)
    said = capsys.readouterr().out
    assert f"round 0 · video {run}, audio {run} in" in said
    assert "0 (start)" in said


def test_encoders_of_ones_own(world: Path, local_ray: None, tmp_path: Path) -> None:
    others = [given for given in TINY if not given.startswith("encoders.")]
    example("own_encoder")(str(world.parent), str(tmp_path / "own"), *others)
    assert (tmp_path / "own" / "LATEST").read_text() == "1\n"


def test_features_of_one_clip(run: Path) -> None:
    uris = pq.read_table(run / "clips")["uri"].to_pylist()
    first, again, other = (
        example("use_encoders")(str(run), uri, "0.6") for uri in (uris[0], uris[0], uris[1])
    )
    assert set(first) == {"video", "audio"}
    for modality, features in first.items():
        assert features.shape[0] == 1
        assert torch.isfinite(features).all()
        assert torch.equal(features, again[modality])
        assert not torch.equal(features, other[modality])


def test_vectors_are_clustered_alike_on_any_number_of_shards(
    local_ray: None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    kinds = np.arange(600) % 3
    vectors = rng.normal(size=(600, 8)) + 20 * np.eye(8)[kinds]
    np.save(tmp_path / "vectors.npy", vectors.astype(np.float32))
    settings = (
        "clustering.k=3",
        "clustering.pca_dim=0",
        "clustering.init=kmeans++",
        "clustering.block_size=128",
        "clustering.cpus_per_shard=0.25",
    )
    one, three = (
        example("cluster_vectors")(
            str(tmp_path / "vectors.npy"), str(tmp_path / shards), *settings, f"clustering.{shards}"
        )
        for shards in ("shards=1", "shards=3")
    )
    assert np.array_equal(one, three)
    assert len({*zip(one.tolist(), kinds.tolist())}) == 3  # a cluster is a kind


@pytest.mark.parametrize(
    ("section", "files"),
    [
        ("Pseudo-labels", "rounds/0001/clusters/video/labels"),
        ("Features", "rounds/0001/features/audio"),
    ],
)
def test_the_tables_are_as_documented(section: str, files: str, run: Path) -> None:
    page = (ROOT / "docs" / "run-directory.md").read_text()
    text = page.split(f"## {section}")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| `?([\w<>: ]*[\w>])", text, re.MULTILINE)
    schema = pq.read_schema(next((run / files).glob("*.parquet")))
    kinds = {name: str(schema.field(name).type).partition("[")[0] for name in schema.names}
    assert dict(documented) == kinds
