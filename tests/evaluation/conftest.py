from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import methods
from pipeline.clips.fill import publish_clips
from pipeline.clips.table import ClipTable
from pipeline.rounds import Pretraining
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.synthetic import write_mp4
from pipeline.telemetry.events import EventLog
from tests.conftest import tiny


def begun(location: Location, *overrides: str) -> Run:
    """A run that has its random encoders and nothing else."""
    config = tiny(f"run={location}", *overrides)
    run = Run.open(config)
    clips = ClipTable.open(run.clips)
    published = publish_clips(clips, run.location, config)
    log = EventLog(run.location)
    Pretraining(run, methods.get(config.method), published, log).begin()
    log.close()
    return run


@pytest.fixture(scope="session")
def media_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real mp4 of half a second with video and audio."""
    place = tmp_path_factory.mktemp("media") / "file.mp4"
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    write_mp4(place, frames, rng.normal(0, 0.1, 8000), 24, 16_000)
    return place


@pytest.fixture
def tree(tmp_path: Path, media_file: Path) -> Callable[[dict[str, str | None]], Path]:
    """Writes a dataset as published: path → a list's text, or None for a media file."""

    def write(files: dict[str, str | None]) -> Path:
        for name, text in files.items():
            place = tmp_path / "set" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                shutil.copy(media_file, place)
            else:
                place.write_text(text)
        return tmp_path / "set"

    return write
