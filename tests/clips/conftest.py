from __future__ import annotations

from pathlib import Path

import pytest

from tests.clips.decoding.media_factory import GeneratedVideo
from tests.clips.index_results import generated


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """4 s of video and sound."""
    return generated(tmp_path / "media" / "f.mp4", GeneratedVideo())
