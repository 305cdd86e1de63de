"""A run whose random encoders have embedded and clustered the small world."""

from __future__ import annotations

import pytest

from pipeline import methods
from pipeline.rounds import Pretraining
from pipeline.storage import Location
from tests.conftest import copy_clips, tiny


@pytest.fixture(scope="session")
def begun(indexed: Location, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Round 0 alone, with its clusters: no learning, which takes longest."""
    run = copy_clips(indexed, Location.of(tmp_path_factory.mktemp("begun")))
    pretraining = Pretraining.opened(tiny(f"run={run}"), methods.get("xdc"))
    pretraining.begin()
    pretraining.label(pretraining.run.round(0))
    pretraining.events.close()
    return run
