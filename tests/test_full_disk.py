"""A disk that is full at each stage of a run: one line, and the run goes on when there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import methods
from pipeline.clips.indexing import index
from pipeline.clustering.handle import Clustering
from pipeline.errors import UserError
from pipeline.rounds import Pretraining, pretrain
from pipeline.runtime.failures import as_user_error
from pipeline.runtime.standby import NextStages
from pipeline.storage import Location
from tests.conftest import tiny
from tests.tmpfs import Disk, mounted

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", "256m") as place:
        yield place


def one_line(disk: Disk, stage: Callable[[], Any]) -> Any:
    """The stage on a full disk, then on one with room again."""
    disk.fill()
    with pytest.raises(Exception) as caught:
        stage()
    told = as_user_error(caught.value)
    assert isinstance(told, UserError), repr(caught.value)
    assert "No space left on device" in str(told)
    assert "make room there, and give the same command again" in str(told)
    assert "\n" not in str(told)
    assert str(told).startswith(str(disk.place))
    disk.free()
    return stage()


def test_every_stage_says_it_and_goes_on(world: Path, disk: Disk) -> None:
    run = Location.of(disk.place / "run")
    config = tiny(f"run={run}")
    one_line(disk, lambda: index(str(world), run, config))
    opened = one_line(disk, lambda: Pretraining.opened(config, methods.get(config.method)))
    one_line(disk, opened.begin)
    this, update = opened.run.round(1), opened.method.updates[0]
    now = opened.run.encoders_after(opened.run.round(0))
    modalities = opened.method.modalities_of(update)
    one_line(disk, lambda: opened.embed(this, modalities, now))
    with NextStages(config, 48) as ahead:

        def labelled() -> dict[str, Clustering]:
            return opened.cluster_all(this, update.clusterings, now, ahead)

        labels = one_line(disk, labelled)
    one_line(disk, lambda: opened.learn(this, 0, labels, now, {}))
    pretrain(config)
    assert opened.run.last_round() == 1
