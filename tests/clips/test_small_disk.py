"""A disk that is full while media are indexed or stored: one line, and it goes on with room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.fill import fill
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.runtime.failures import as_user_error
from pipeline.storage import Location
from tests.clips.test_shared_store import run_of
from tests.conftest import tiny
from tests.tmpfs import mounted

pytestmark = pytest.mark.usefixtures("local_ray")


def check_one_line(error: BaseException, place: Path) -> None:
    """What the job prints of it."""
    said = str(as_user_error(error))
    assert str(place) in said
    assert "No space left" in said
    assert "\n" not in said


def test_an_index_on_a_full_disk(world: Path, tmp_path: Path) -> None:
    source = f"{world.parent}/media/0000*.mp4"
    with mounted(tmp_path / "disk", "1m") as disk:
        run = Location.of(disk.place / "run")
        (run / "scratch" / "there").write_bytes(b"")
        disk.fill()
        with pytest.raises((UserError, OSError)) as error:
            index(source, run, tiny())
        check_one_line(error.value, disk.place)
        assert not [*(run / "clips").files(".parquet")]
        disk.free()
        assert index(source, run, tiny()).indexed == 10
        assert len(ClipTable.open(run / "clips")) == 10


def test_a_store_on_a_full_disk(
    indexed: Location,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.clips.fill.CLIPS_PER_SHARD", 10)
    clips, config = run_of(indexed, tmp_path / "run", np.arange(20)).publish(), tiny()
    first = run_of(indexed, tmp_path / "first", np.arange(10)).publish()
    with mounted(tmp_path / "disk", "4m") as disk:
        place = Location.of(disk.place / "store")
        fill(first, place, config)
        disk.fill()
        with pytest.raises((UserError, OSError)) as error:
            fill(clips, place, config)
        check_one_line(error.value, disk.place)
        disk.free()
        capsys.readouterr()
        fill(clips, place, config)
        assert "store · 10 clips in" in capsys.readouterr().out
        assert len([*place.files(".tar")]) == 2
