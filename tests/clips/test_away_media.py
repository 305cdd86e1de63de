"""Media that are away for a while are not bad media: neither for the index nor for the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.clips.fill import fill
from pipeline.clips.indexing import REJECTS, index
from pipeline.clips.input_keys import uri_keys
from pipeline.clips.outage import Outage
from pipeline.clips.table import ClipTable
from pipeline.storage import Location
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def cuts(world: Path, tmp_path: Path) -> Path:
    """A table of 12 files in ``media``."""
    (tmp_path / "media").mkdir()
    for file in sorted((world.parent / "media").glob("*.mp4"))[:12]:
        shutil.copy(file, tmp_path / "media")
    rows = [f"media/{file.name},," for file in sorted((tmp_path / "media").iterdir())]
    table = tmp_path / "cuts.csv"
    table.write_text("\n".join(["uri,start_s,end_s", *rows]) + "\n")
    return table


def test_an_index_stops_when_the_media_are_away(cuts: Path, tmp_path: Path) -> None:
    run = Location.of(tmp_path / "run")
    (tmp_path / "media").rename(tmp_path / "unmounted")
    with pytest.raises(Outage, match=r"index stops: 12 of 12 .*missing 12.*max_rejected"):
        index(str(cuts), run, tiny())
    assert not (run / REJECTS).exists()
    assert not [*(run / "clips").files(".parquet")]
    (tmp_path / "unmounted").rename(tmp_path / "media")
    report = index(str(cuts), run, tiny())
    assert (report.indexed, report.rejected, report.already_known) == (12, 0, 0)


def test_an_index_stops_when_a_share_is_away_and_its_rest_need_not_be_probed_again(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.clips.chunks.FILES_PER_TASK", 4)
    run, media = Location.of(tmp_path / "run"), tmp_path / "media"
    media.mkdir()
    found = sorted((world.parent / "media").glob("*.mp4"))
    for file, name in zip(found, names_in_chunks_of_four(media, 12)):
        shutil.copy(file, media / name)
    files = sorted(media.iterdir())
    for file in files[:3]:  # all of one chunk but its last
        file.rename(file.with_suffix(".gone"))
    table = tmp_path / "cuts.csv"
    table.write_text("\n".join(["uri,start_s,end_s", *(f"{file},," for file in files)]) + "\n")
    with pytest.raises(Outage, match=r"3 of 12"):
        index(str(table), run, tiny())
    capsys.readouterr()
    report = index(str(table), run, tiny("clips.max_rejected=0.3"))
    assert "index · 4 inputs in" in capsys.readouterr().out
    assert (report.indexed, report.reasons) == (9, {"missing": 3})


def names_in_chunks_of_four(media: Path, count: int) -> list[str]:
    """Names, in order, of which every fourth ends a chunk: the path says whether one does."""
    names: list[str] = []
    number = 0
    while len(names) < count:
        name = f"{number:05}.mp4"
        (key,) = uri_keys(pa.chunked_array([[str(media / name)]]))
        if (key % np.uint64(4) == 0) == (len(names) % 4 == 3):
            names.append(name)
        number += 1
    return names


def test_what_was_away_is_tried_again_and_bad_media_are_not(cuts: Path, tmp_path: Path) -> None:
    run, media = Location.of(tmp_path / "run"), tmp_path / "media"
    (media / "00003.mp4").rename(tmp_path / "away.mp4")
    (media / "00005.mp4").write_text("to be or not to be, that is the question")

    def indexed() -> tuple[int, int, list[tuple[str, int]]]:
        report = index(str(cuts), run, tiny())
        rows = (run / REJECTS).read_table().to_pylist()
        tries = sorted((row["reason"], row["attempt"]) for row in rows)
        return report.indexed, report.already_known, tries

    assert indexed() == (10, 0, [("missing", 1), ("not_media", 1)])
    # It alone is tried now, and is no outage.
    assert indexed() == (0, 11, [("missing", 2), ("not_media", 1)])
    (tmp_path / "away.mp4").rename(media / "00003.mp4")
    assert indexed() == (1, 11, [("not_media", 1)])
    assert len(ClipTable.open(run / "clips")) == 11


def test_a_store_is_not_filled_while_the_media_are_away(cuts: Path, tmp_path: Path) -> None:
    run, config = Location.of(tmp_path / "run"), tiny()
    index(str(cuts), run, config)
    clips = ClipTable.open(run / "clips").publish()
    (tmp_path / "media").rename(tmp_path / "unmounted")
    with pytest.raises(Outage, match="store stops: 12 of 12"):
        fill(clips, run / "store", config)
    assert not [*(run / "store").files(".parquet")]
    (tmp_path / "unmounted").rename(tmp_path / "media")
    fill(clips, run / "store", config)
    (shard,) = (run / "store").files(".parquet")
    assert shard.read_table()["bytes"].to_numpy().all()


def test_files_that_were_deleted_do_not_keep_a_store_from_being_filled(
    cuts: Path, tmp_path: Path
) -> None:
    run, config = Location.of(tmp_path / "run"), tiny()
    index(str(cuts), run, config)
    clips = ClipTable.open(run / "clips").publish()
    for file in sorted((tmp_path / "media").iterdir())[:6]:
        file.unlink()
    fill(clips, run / "store", config)
    (shard,) = (run / "store").files(".parquet")
    assert shard.read_table()["reason"].to_pylist() == ["missing"] * 6 + [None] * 6
