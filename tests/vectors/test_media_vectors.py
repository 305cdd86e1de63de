"""The table of vectors: what an embedding pass writes, joined with where each clip is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs.embed import main as embed
from jobs.export import main as export
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.embedding import embed as embedding
from pipeline.embedding.embed import EmbeddingTask
from pipeline.embedding.shards import read_features
from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.conftest import tiny
from tests.whole_runs import Calm

ROOT = Path(__file__).resolve().parents[2]
BOTH = ("video", "audio")
PARTS = "embedding.max_rows_per_file=20"  # of 48 clips: three parts a modality


def table(out: Path, modality: str) -> pa.Table:
    return pq.read_table(out / "vectors" / modality)


def matrix(found: pa.Table) -> np.ndarray:
    column = found["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(found), -1)


def contents(out: Path) -> dict[str, bytes]:
    """The table and the rejects, by path."""
    kept = [*(out / "vectors").rglob("*"), *(out / "rejects").rglob("*")]
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(kept) if p.is_file()}


@pytest.fixture(scope="module")
def whole(calm: Calm, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of the small world, by the encoders that were trained on it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    embed([str(world), str(out), "--encoder", str(calm.place), PARTS])
    return out


def test_the_table_holds_what_an_embedding_pass_writes(
    calm: Calm, whole: Path, tmp_path: Path
) -> None:
    run = Run.existing(str(calm.place))
    clips = ClipTable.open(run.clips)
    out = {m: Location.of(tmp_path / "features" / m) for m in BOTH}
    weights = run.finished_round().encoders
    rejects = Location.of(tmp_path / "rejects")
    embedding.embed(EmbeddingTask(clips.publish(), weights, out, rejects, run.config, "embed"))
    for modality in BOTH:
        found = table(whole, modality)
        features, present = read_features(out[modality], len(clips))
        assert present.all()
        assert np.array_equal(matrix(found), features), "the clips, in their order"
        for column in ("uri", "start_s", "end_s"):
            assert found[column].to_pylist() == clips.column(column).to_pylist()
        assert set(found["modality"].to_pylist()) == {modality}
        names = sorted(place.name for place in (whole / "vectors" / modality).iterdir())
        assert names == [f"part-{n:06d}.parquet" for n in range(3)]


def test_the_clusters_are_those_of_the_run(calm: Calm, whole: Path) -> None:
    last = Run.existing(str(calm.place)).finished_round()
    for modality in BOTH:
        found = table(whole, modality)
        assert found.schema.field("cluster").type == pa.int32()
        assert found.schema.field("distance").type == pa.float32()
        labels = read_labels(last.clusters(modality), 48)
        assert np.array_equal(found["cluster"].to_numpy(), labels)
