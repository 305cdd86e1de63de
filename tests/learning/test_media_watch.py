"""Media that go away while learning: the update stops, and goes on when they are back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.outage import Outage
from pipeline.clips.rejects import RejectedClip
from pipeline.learning.checkpoint import TrainingState
from pipeline.learning.media_watch import MediaWatch
from pipeline.storage import Location
from tests.conftest import tiny
from tests.learning.test_learn import curve, trained


def watch() -> MediaWatch:
    return MediaWatch("learn", tiny().clips.max_rejected)


def lost(*clips: int, modality: str | None = None) -> list[RejectedClip]:
    uri = "/nowhere/at/all.mp4"
    return [RejectedClip(clip, uri, "", modality, "missing", "") for clip in clips]


def test_some_clips_may_be_lost_and_many_may_not() -> None:
    clips = np.arange(1000)
    few = watch()
    few.saw(clips, lost(*range(50)))
    few.check()
    few.saw(np.array([-1, 7, 7, 7]), lost(7, 7))
    few.check()  # a bad clip that is drawn often is one clip
    few.saw(clips, lost(*clips, modality="audio"))
    few.check_all()
    many = watch()
    many.saw(clips, lost(*range(200)))
    with pytest.raises(Outage, match=r"learn stops: 200 of 1,000 .*\(missing 200\)"):
        many.check()


def test_clips_whose_files_were_deleted_are_no_outage(tmp_path: Path) -> None:
    (tmp_path / "still-there.mp4").write_bytes(b"")
    seen = watch()
    gone = [RejectedClip(n, f"{tmp_path}/{n}.mp4", "", None, "missing", "") for n in range(40)]
    seen.saw(np.arange(40), gone)
    seen.check_all()
    seen.saw(np.arange(40), [reject._replace(reason="unreadable") for reject in gone])
    with pytest.raises(Outage):
        seen.check_all()


def test_a_few_clips_tell_little_unless_all_are_lost() -> None:
    by_chance = watch()
    by_chance.saw(np.arange(40), lost(*range(5)))
    by_chance.check()
    gone = watch()
    gone.saw(np.arange(40), lost(*range(40)))
    with pytest.raises(Outage):
        gone.check_all()


def test_the_count_begins_where_training_stood_well() -> None:
    seen = watch()
    seen.saw(np.arange(10_000), [])
    seen.check_all()
    seen.saw(np.arange(160), lost(*range(160)))
    with pytest.raises(Outage, match="160 of 160"):
        seen.check()


class MediaAway(threading.Thread):
    """Moves the media away once training has written a checkpoint."""

    def __init__(self, media: Path, checkpoint: Path) -> None:
        super().__init__()
        self.media, self.checkpoint = media, checkpoint
        self.away = media.with_name("away")

    def run(self) -> None:
        end = time.monotonic() + 120
        while not self.checkpoint.exists() and time.monotonic() < end:
            time.sleep(0.02)
        self.media.rename(self.away)

    def bring_back(self) -> None:
        self.join()
        self.away.rename(self.media)


LONG = ["learning.epoch_clips=1600", "learning.epochs=1", "learning.checkpoint_minutes=1e-9"]


def stopped(run: Location, world: Path) -> TrainingState:
    """What an update leaves whose media went away."""
    away = MediaAway(world.parent / "media", Path(str(run / "away" / "checkpoint.pt")))
    away.start()
    try:
        with pytest.raises(Outage) as raised:
            trained(run, "away", *LONG, "learning.workers=2", "learning.batch_size=4")
    finally:
        away.bring_back()
    assert "\n" not in str(raised.value)
    assert "missing" in str(raised.value)
    assert not (run / "away" / "encoders.safetensors").exists()
    return TrainingState.of(run / "away")


@pytest.mark.chaos
def test_an_update_whose_media_go_away_stops_at_a_good_place(
    new_run: Callable[[], Location], world: Path
) -> None:
    state = stopped(new_run(), world)
    assert 0 < state.slot < 400
    assert min(state.curve["loss_video_audio"]) > 0


@pytest.mark.chaos
def test_it_goes_on_when_they_are_back(new_run: Callable[[], Location], world: Path) -> None:
    run = new_run()
    state = stopped(run, world)
    away, found = trained(run, "away", *LONG, "learning.workers=2", "learning.batch_size=4")
    assert found["resumed_at"] == state.slot // 2
    assert found["rejected"] == 0
    calm, _ = trained(run, "calm", *LONG, "learning.workers=2", "learning.batch_size=4")
    assert curve(away).equals(curve(calm))
    name = "encoders.safetensors"
    assert (away / name).read_bytes() == (calm / name).read_bytes()
