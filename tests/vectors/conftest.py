"""A run whose random encoders have embedded and clustered the small world."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.embed import main as embed
from pipeline import methods
from pipeline.rounds import Pretraining
from pipeline.storage import Location
from tests.conftest import copy_clips, tiny

PARTS = "embedding.max_rows_per_file=20"  # of 48 clips: three parts a modality


@pytest.fixture(scope="session")
def begun(indexed: Location, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Round 0 alone, with its clusters: no learning, which takes longest."""
    run = copy_clips(indexed, Location.of(tmp_path_factory.mktemp("begun")))
    pretraining = Pretraining.opened(tiny(f"run={run}"), methods.get("xdc"))
    pretraining.begin()
    pretraining.label(pretraining.run.round(0))
    pretraining.events.close()
    return run


@pytest.fixture(scope="session")
def whole(begun: Location, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of the small world, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    embed([str(world), str(out), "--encoder", str(begun), PARTS])
    return out
