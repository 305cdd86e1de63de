"""More rounds, and more or fewer media, for a run that is finished."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import settings
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.errors import UserError
from pipeline.rounds import pretrain
from pipeline.run import Run
from pipeline.stages import MATCHED
from pipeline.storage import Location
from tests.conftest import tiny
from tests.whole_runs import CALM


def goal(run: Location, more: int, *given: str) -> int:
    config = tiny(f"run={run}", *given)
    return Run(run, config).with_more_rounds(more).rounds


def test_more_rounds_are_counted_from_the_last_finished_one(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    assert goal(place, 2) == 2, "nothing was begun"
    run = Run(place, tiny(f"run={place}", "rounds=3"))
    for number in range(4):
        run.round(number).encoders.write_bytes(b"")
        run.commit(run.round(number), {}, settings=run.config.outcome())
    Run.open(run.config)
    assert goal(place, 2) == 5
    Run.open(tiny(f"run={place}", "rounds=5"))
    assert goal(place, 2) == 5, "stopped, and given again"
    settled = ("settled_nmi=0.9",)
    Run.open(tiny(f"run={place}", "rounds=9", *settled))
    assert goal(place, 2, *settled) == 5, "it had settled before its ninth round"
    Run.open(tiny(f"run={place}", "rounds=5", "min_rounds=5", *settled))
    assert goal(place, 2, *settled) == 5


def test_how_it_is_written() -> None:
    assert settings.more_rounds(["a.yaml", "rounds=+2"]) == (["a.yaml"], 2)
    assert settings.more_rounds(["rounds=2"]) == (["rounds=2"], 0)
    for wrong in ("rounds=+", "rounds=+x", "rounds=+0"):
        with pytest.raises(UserError, match="after the plus"):
            settings.more_rounds([wrong])


def test_a_run_takes_up_new_media_and_outlives_deleted_ones(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], local_ray: None
) -> None:
    media, run = tmp_path / "media", Location.of(tmp_path / "run")
    shutil.copytree(world.parent, media)
    files = sorted(media.rglob("*.mp4"))
    later = tmp_path / "later"
    later.mkdir()
    for file in files[32:]:
        shutil.move(file, later / file.name)
    index(str(media), run, tiny())
    config = tiny(f"run={run}", *CALM)
    pretrain(config)
    assert not (run / "rounds" / "0002").exists()

    for file in files[:4]:  # an eighth: more than clips.max_rejected
        os.unlink(file)
    index(str(later), run, tiny())
    more = Run(run, config).with_more_rounds(1)
    assert pretrain(more).last_round() == 2
    said = capsys.readouterr().out
    assert "33% of the clips are new" in said
    clips = ClipTable.open(run / "clips")
    assert len(clips) == 48
    gone = [
        Path(uri).name in {f.name for f in files[:4]} for uri in clips.column("uri").to_pylist()
    ]
    assert sum(gone) == 4
    for name in ("video", "audio"):
        folder = Run(run, more).round(2).clusters(name)
        labels = read_labels(folder, 48)
        assert np.array_equal(labels < 0, gone), "the others have labels, be they new or not"
        told = (folder / MATCHED).read_json()
        assert told["round"] == 1
        assert len(told["clusters"]) == 4
        assert len({c for c in told["clusters"] if c >= 0}) == sum(c >= 0 for c in told["clusters"])
    parts = [part.read_table() for part in Run(run, more).round(2).rejects.files()]
    rejects = [row for part in parts for row in part.to_pylist()]
    assert {row["reason"] for row in rejects} == {"missing"}
    assert len({row["uri"] for row in rejects}) == 4
