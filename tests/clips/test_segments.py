"""A list that is indexed in many segments: the same tables, also after kills and as it grows."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.clips import chunks, intake, segments, worklist
from pipeline.clips.chunks import Probed
from pipeline.clips.indexing import REJECTS, IndexReport, index
from pipeline.clips.intake import Intake
from pipeline.clips.outage import Outage, RecentLosses
from pipeline.clips.table import SCHEMA, ClipTable
from pipeline.storage import Location
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("local_ray")


class Killed(BaseException):
    """In the place of a signal: what is on storage is what a kill would leave."""


def set_sizes(monkeypatch: pytest.MonkeyPatch, segment: int, part: int = 10) -> None:
    """Inputs of a segment and of a part of the worklist, and clips of a part of the table."""
    monkeypatch.setattr(chunks, "FILES_PER_TASK", 2)
    monkeypatch.setattr(segments, "INPUTS_PER_SEGMENT", segment)
    monkeypatch.setattr(worklist, "INPUTS_PER_PART", segment)
    monkeypatch.setattr(intake, "CLIPS_PER_PART", part)


@pytest.fixture
def cuts(world: Path, tmp_path: Path) -> Path:
    """Files and cuts of the same media, repeated ones, and some that cannot be used."""
    media = tmp_path / "media"
    media.mkdir()
    files = sorted((world.parent / "media").glob("*.mp4"))[:12]
    rows = [f"{file},{n / 10},{n / 10 + 0.5},first" for n in range(3) for file in files]
    rows += ["gone.mp4,0,1,", f"{files[3]},7,8,", f"{files[4]},x,8,", f"{files[0]},,,whole"]
    rows += [f"{file},0.1,0.6,again" for file in files] + [f"{files[4]},x,8,", f"{files[0]},,,"]
    (media / "text.mp4").write_text("to be or not to be, that is the question")
    rows += ["media/text.mp4,0,1,", f"{files[5]},0.35,0.85,last"]
    table = tmp_path / "cuts.csv"
    table.write_text("\n".join(["uri,start_s,end_s,label", *rows]) + "\n")
    return table


@pytest.fixture
def media(world: Path, tmp_path: Path) -> Path:
    """A folder of 24 videos, a text and an empty file."""
    folder = tmp_path / "media"
    folder.mkdir()
    for file in sorted((world.parent / "media").glob("*.mp4"))[:24]:
        shutil.copy(file, folder)
    (folder / "00007.txt").write_text("to be or not to be, that is the question")
    (folder / "00015.empty").write_bytes(b"")
    return folder


def contents(run: Location) -> dict[str, bytes]:
    """All that indexing leaves, by path."""
    root = Path(run.uri)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "_LEASE"
    }


def tables(run: Location) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Clips in their order, and rejects.

    Where chunks end depends on the paths of the media, and so may, after a kill, where parts do.
    """
    clips = ClipTable.open(run / "clips")
    rows = [row for part in clips.read_parts(SCHEMA.names) for row in part.to_pylist()]
    return rows, (run / REJECTS).read_table().to_pylist()


def ids(run: Location) -> list[str]:
    return ClipTable.open(run / "clips").column("clip_id").to_pylist()


def rejects(run: Location) -> list[tuple[str, str, int]]:
    rows = (run / REJECTS).read_table().to_pylist()
    return sorted((Path(row["uri"]).name, row["reason"], row["attempt"]) for row in rows)


def num_probed(capsys: pytest.CaptureFixture[str]) -> int:
    """How many inputs the last index probed."""
    found = re.findall(r"^index · ([\d,]+) inputs in", capsys.readouterr().out, re.MULTILINE)
    return int(found[-1].replace(",", "")) if found else 0


@pytest.mark.parametrize("source", ["cuts", "media"])
def test_the_tables_do_not_depend_on_segments(
    source: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = str(request.getfixturevalue(source))
    runs: list[tuple[IndexReport, dict[str, bytes]]] = []
    for segment in (1000, 7, 3):
        set_sizes(monkeypatch, segment)
        run = Location.of(tmp_path / f"run-{segment}")
        runs.append((index(place, run, tiny("index.window_s=0.6")), contents(run)))
    assert runs[0] == runs[1] == runs[2]
    report, left = runs[0]
    assert report.listed == report.indexed + report.rejected
    assert len([name for name in left if name.endswith(".parquet")]) > 3
    if source == "cuts":
        assert (report.repeated, report.rejected, report.indexed) == (14, 4, 38)
        labels = ClipTable.open(run / "clips").column("label").to_pylist()
        assert "again" not in labels


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (segments.Prober, "probe", 2),  # between segments
        (Intake, "add", 3),  # when one is probed
        (intake, "append", 2),  # between the rejects and the clips of a part
        (Probed, "read", 9),  # as a segment is taken
    ],
)
def test_after_a_kill_the_same_tables_come_of_it(
    media: Path,
    owner: object,
    name: str,
    calls: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    set_sizes(monkeypatch, 8)
    index(str(media), Location.of(tmp_path / "calm"), tiny())
    run, asked = Location.of(tmp_path / "run"), 0
    whole = getattr(owner, name)

    def killed(*args: object) -> object:
        nonlocal asked
        asked += 1
        if asked == calls:
            raise Killed
        return whole(*args)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, killed)
        with pytest.raises(Killed):
            index(str(media), run, tiny())
    capsys.readouterr()
    before = ids(run) if (run / "clips" / "_DONE").exists() else []
    report = index(str(media), run, tiny())
    assert num_probed(capsys) < 26
    assert tables(run) == tables(Location.of(tmp_path / "calm"))
    assert ids(run)[: len(before)] == before
    assert report.already_known >= len(before)
    assert report.listed == report.already_known + report.indexed + report.rejected


def test_chunks_that_were_probed_are_found_again_in_a_bucket_that_grew(
    world: Path,
    media: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    set_sizes(monkeypatch, 1000)
    run = Location.of(tmp_path / "run")

    def killed(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Intake, "add", killed)
        with pytest.raises(Killed):
            index(str(media), run, tiny())
    probed = [*(run / "scratch" / "index" / "probed").files()]
    for place in probed[::3]:
        place.delete()  # as if the kill had come before
    shutil.copy(media / "00010.mp4", media / "00000-new.mp4")
    capsys.readouterr()
    monkeypatch.setattr(segments, "INPUTS_PER_SEGMENT", 5)
    report = index(str(media), run, tiny())
    assert (report.indexed, report.rejected) == (25, 2)
    # What is lost is as much as was deleted, and the chunk of the new file.
    most = 2 * 4
    assert 0 < num_probed(capsys) <= min(most * (len(probed[::3]) + 1), 26)
    uris = ClipTable.open(run / "clips").column("uri").to_pylist()
    assert uris == sorted(uris)
    assert not [*(run / "scratch" / "index").files()]


def test_rejects_of_all_segments_are_kept_and_tried_again(
    media: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_sizes(monkeypatch, 3, part=2)
    run = Location.of(tmp_path / "run")
    cuts = tmp_path / "cuts.csv"
    rows = [f"media/{name},," for name in sorted(path.name for path in media.iterdir())]
    cuts.write_text("\n".join(["uri,start_s,end_s", *rows]) + "\n")
    (media / "00020.mp4").rename(tmp_path / "away.mp4")
    first = [("00007.txt", "not_media", 1), ("00015.empty", "empty_file", 1)]
    report = index(str(cuts), run, tiny())
    assert (report.indexed, report.reasons["missing"]) == (23, 1)
    assert rejects(run) == [*first, ("00020.mp4", "missing", 1)]
    index(str(cuts), run, tiny())
    assert rejects(run) == [*first, ("00020.mp4", "missing", 2)]
    (tmp_path / "away.mp4").rename(media / "00020.mp4")
    report = index(str(cuts), run, tiny(), retry_rejects=True)
    assert (report.already_known, report.indexed, report.rejected) == (23, 1, 2)
    assert rejects(run) == [(name, reason, 2) for name, reason, _ in first]


@pytest.mark.parametrize(("first", "part"), [(7, 4), (7, 1000), (16, 4)])
def test_an_outage_in_a_later_segment_keeps_what_was_added(
    first: int, part: int, media: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that did not come before the outage began is tried again as those after it."""
    set_sizes(monkeypatch, 8, part)
    monkeypatch.setattr(chunks, "FILES_PER_TASK", 1)  # a chunk a file
    run, config = Location.of(tmp_path / "run"), tiny("clips.max_rejected=0.2")
    calm = Location.of(tmp_path / "calm")
    index(str(media), calm, config)
    cuts = tmp_path / "cuts.csv"
    rows = [f"media/{name},," for name in sorted(path.name for path in media.iterdir())]
    cuts.write_text("\n".join(["uri,start_s,end_s", *rows]) + "\n")
    files = sorted(media.glob("*.mp4"))
    away = [*files[first : first + 1], *files[16:]]
    for path in dict.fromkeys(away):
        path.rename(tmp_path / path.name)
    with pytest.raises(Outage, match=r"could not be read .missing .*added before them stays"):
        index(str(cuts), run, config)
    there = ids(run) if part < 16 else []  # a part of 1000 clips was not full yet
    assert (4 if part < 16 else 0) <= len(there) <= 16
    for path in dict.fromkeys(away):
        (tmp_path / path.name).rename(path)
    report = index(str(cuts), run, config)
    assert report.listed == report.already_known + report.indexed + report.rejected == 26
    assert ids(run)[: len(there)] == there
    assert sorted(ids(run)) == sorted(ids(calm))
    assert rejects(run) == rejects(calm)


def test_the_last_segment_is_judged_with_those_before_it() -> None:
    losses = RecentLosses("index", 0.05, enough=100)
    for _ in range(5):
        losses.add(Counter(missing=2), 100, "")
    losses.add(Counter(missing=3), 4, "")
    losses.add(Counter(), 10, "")
    with pytest.raises(Outage, match="9 of 100"):
        losses.add(Counter(missing=9), 100, "")


def test_indexing_again_reads_one_column_of_the_clips_table(
    world: Path, media: Path, tmp_path: Path
) -> None:
    run = Location.of(tmp_path / "run")
    index(str(media), run, tiny())
    (part,) = (tmp_path / "run" / "clips").glob("*.parquet")
    footer = pq.ParquetFile(part).metadata.row_group(0)
    data = bytearray(part.read_bytes())
    for number in range(footer.num_columns):
        column = footer.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        if column.path_in_schema != "uri":
            data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    part.write_bytes(data)
    shutil.copy(media / "00001.mp4", media / "new.mp4")
    report = index(str(media), run, tiny())
    assert (report.already_known, report.indexed, report.total_clips) == (26, 1, 25)
