"""Copies of real media, and what is no copy, on a run with random encoders (benchmarks/curation.py
has the other filters on a trained one)."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.curation_world import PlantedClip, plan, write
from jobs.curate import main as curate
from pipeline import methods
from pipeline.clips.indexing import index
from pipeline.rounds import Pretraining
from pipeline.storage import Location
from pipeline.synthetic import SyntheticWorld
from tests.conftest import tiny

WORLD = SyntheticWorld(classes=4, places=4, size=48, seconds=1.2, difficulty=0.0)
PLANTED = {"exact": 6, "reencoded": 2, "shifted": 2, "dubbed": 2, "frozen": 2, "music": 2}


@pytest.fixture(scope="module")
def planted(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Location, dict[str, PlantedClip]]:
    """A labelled round 0, and its clips by file name."""
    folder = tmp_path_factory.mktemp("planted")
    clips, run = plan(WORLD, 16, PLANTED), Location.of(folder / "run")
    index(str(write(folder, WORLD, clips)), run, tiny())
    pretraining = Pretraining.opened(tiny(f"run={run}"), methods.get("xdc"))
    pretraining.begin()
    pretraining.label(pretraining.run.round(0))
    pretraining.events.close()
    return run, {clip.name: clip for clip in clips}


def test_of_equal_files_one_is_kept(
    planted: tuple[Location, dict[str, PlantedClip]], tmp_path: Path
) -> None:
    run, clips = planted
    out = tmp_path / "kept.parquet"
    curate([str(run), str(out), "--near-duplicates", "0.999"])
    rows = {
        name: pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        for name in ("kept", "kept.dropped")
    }
    clip_of = {
        row["clip_id"]: clips[Path(row["uri"]).name] for some in rows.values() for row in some
    }
    for row in rows["kept.dropped"]:
        clip, stays = clip_of[row["clip_id"]], clip_of[row["duplicate_of"]]
        assert clip.origin == stays.origin, "they show the same"
        assert row["cosine"] > 0.999
    kept = [clip_of[row["clip_id"]] for row in rows["kept"]]
    for origin in {clip.origin for clip in clips.values() if clip.kind == "exact"}:
        same = [c for c in kept if c.origin == origin and c.kind in ("plain", "exact")]
        assert len(same) == 1
