"""A report of a whole run: its numbers are the run's, and its media can be seen and heard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.report import main as report
from pipeline.clips.table import SCHEMA, ClipTable
from pipeline.clustering import measures, read_labels, serve_finished
from pipeline.errors import UserError
from pipeline.report.clustered import TYPICAL
from pipeline.rounds import pretrain
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.events import read_events
from tests.conftest import rewrite_clips, s3_uri, tiny
from tests.report.conftest import Visit
from tests.report.page_values import value_of
from tests.whole_runs import Calm


@pytest.fixture(scope="module")
def made(calm: Calm, tmp_path_factory: pytest.TempPathFactory) -> Location:
    out = Location.of(tmp_path_factory.mktemp("report") / "of-calm")
    report([str(calm.place), str(out)])
    return out


def test_numbers_are_those_of_the_run(calm: Calm, made: Location) -> None:
    page = value_of(made, "report")
    assert (page["state"], page["clips"], page["shown"]) == ("finished", 48, 48)
    assert (page["rounds_done"], page["method"], page["labelled"]) == (2, "xdc", True)
    assert [c["name"] for c in page["clusterings"]] == ["video", "audio"]
    assert all(c["rounds"] == [0, 1, 2] for c in page["clusterings"])
    curves = {curve["id"]: curve for curve in page["curves"]}
    assert {"loss", "held_out_loss", "nmi", "labels", "agreement", "effective"} <= set(curves)
    assert page["across"] == [0, 1, 2]
    ends = [event["time"] for event in read_events(calm.place) if event["event"] == "round"]
    told = [each["at"] for each in page["timeline"]["rounds"]]
    assert told == pytest.approx(ends, rel=0, abs=0.1)
    clips = value_of(made, "clips")
    table = ClipTable.open(calm.place / "clips")
    assert [clips["labels"][n] for n in clips["label"]] == table.column("label").to_pylist()
    assert [clips["uris"][n] for n in clips["uri"]] == table.column("uri").to_pylist()
    for name in ("video", "audio"):
        for number in (0, 1, 2):
            out = Run.existing(str(calm.place)).round(number).clusters(name)
            labels = read_labels(out, 48)
            assert np.array_equal(value_of(made, f"labels/{name}/{number}"), labels)
            cards = value_of(made, f"clusters/{name}/{number}")
            assert [card["size"] for card in cards] == np.bincount(labels, minlength=4).tolist()
            purity = sum(card["size"] * (card["purity"] or 0) for card in cards) / 48
            assert purity == pytest.approx(measures.purity(labels, clips["label"]), abs=1e-4)
            served = serve_finished(out, num_clips=48)
            for card in cards:
                nearest = served.nearest_clips(card["id"], TYPICAL).tolist()
                assert card["typical"] == nearest, "every clip is shown, so positions are indices"
                assert not set(card["random"]) & set(nearest)
                assert {labels[n] for n in card["random"]} <= {card["id"]}
            served.close()
    flow = value_of(made, "flow/video/2")
    assert sum(count for _, _, count in flow["cells"]) == 48


def test_tables_of_sound_against_pictures(calm: Calm, made: Location) -> None:
    across = value_of(made, "across/2")
    run = Run.existing(str(calm.place))
    audio, video = (read_labels(run.round(2).clusters(m), 48) for m in ("audio", "video"))
    for row, column, count, times in across["cells"]:
        both = (audio == row) & (video == column)
        assert count == both.sum()
        expected = (audio == row).sum() * (video == column).sum() / 48
        assert times == pytest.approx(count / expected, rel=1e-4)
        examples = across["examples"][f"{row},{column}"]
        assert examples
        assert both[examples].all()
    assert sorted(across["rows"]["order"]) == [0, 1, 2, 3]
    assert sorted(across["columns"]["order"]) == [0, 1, 2, 3]


def test_the_map_and_neighbours(made: Location) -> None:
    spaces = value_of(made, "map")["spaces"]
    for axis in (spaces[m][a] for m in ("video", "audio") for a in "xy"):
        assert np.isfinite(axis).all()
        assert np.abs(axis).max() <= 1
    near = value_of(made, "nearest")
    assert set(near["lists"]) == {"picture", "sound", "across"}
    for rows in near["lists"].values():
        assert len(rows) == len(near["clips"]) == 48
        for clip, row in zip(near["clips"], rows):
            assert clip not in [position for position, _ in row]
            scores = [score for _, score in row]
            assert scores == sorted(scores, reverse=True)


def test_media_are_seen_and_heard(made: Location) -> None:
    clips = value_of(made, "clips")
    assert len(clips["media_ids"]) == 48
    assert (clips["media_kinds"] == 7).all()
    stem = Path(made.path) / "media" / clips["media_ids"][5]
    with Image.open(stem.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= 160
    with Image.open(stem.with_suffix(".png")) as tones:
        assert tones.size == (40, 40)
    with av.open(str(stem.with_suffix(".mp4"))) as film:
        assert [s.codec_context.name for s in film.streams] == ["h264", "aac"]
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(frames) >= 8
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "it moves"
    with av.open(str(stem.with_suffix(".mp4"))) as film:
        heard = np.concatenate([f.to_ndarray()[0] for f in film.decode(audio=0)])
    assert np.abs(heard).max() > 0.01


def test_tables_for_other_tools(calm: Calm, made: Location) -> None:
    table = pq.read_table(made.path + "/clips.parquet")
    assert len(table) == 48
    labels = read_labels(Run.existing(str(calm.place)).round(2).clusters("audio"), 48)
    assert table["audio_cluster"].to_pylist() == labels.tolist()
    assert table["video_x"].null_count == 0
    first = table["thumbnail"][0].as_py()
    assert (made / first).exists()
    rows = list(csv.reader(io.StringIO((made / "rejects.csv").read_bytes().decode())))
    assert rows[0] == ["stage", "reason", "uri", "clip_id", "detail", "attempt"]


def test_it_is_brought_up_to_date(
    calm: Calm, made: Location, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    media = Path(made.path) / "media"
    one, other = sorted(media.glob("*.mp4"))[:2]
    one.unlink()
    (media / "0000000000000000.mp4").write_bytes(b"of a clip that is shown no more")
    before = other.stat().st_mtime_ns
    capsys.readouterr()
    report([str(calm.place), str(made)])
    assert "previews · 1 clips" in capsys.readouterr().out
    assert one.exists()
    assert other.stat().st_mtime_ns == before
    assert not (media / "0000000000000000.mp4").exists()
    another = Location.of(tmp_path / "run")
    (another / "config.yaml").write_bytes((calm.place / "config.yaml").read_bytes())
    with pytest.raises(UserError, match=r"is the report of .*; name another folder"):
        report([str(another), str(made)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not a report"):
        report([str(calm.place), str(tmp_path / "full")])


def test_without_media_no_faces_and_voices(calm: Calm, tmp_path: Path) -> None:
    out = Location.of(tmp_path / "out")
    report([str(calm.place), str(out), "--no-media", "--clips", "20"])
    page = value_of(out, "report")
    assert (page["with_media"], page["playable"], page["nearest"]) == (False, 0, False)
    assert not (tmp_path / "out" / "media").exists()
    assert 20 <= page["shown"] <= 48, "a sample, and the clips that clusters name"
    shown = value_of(out, "clips")
    assert (np.diff(shown["clip_index"]) > 0).all()
    labels = read_labels(Run.existing(str(calm.place)).round(2).clusters("video"), 48)
    assert np.array_equal(value_of(out, "labels/video/2"), labels[shown["clip_index"]])


def test_hostile_names_lost_media_and_a_bucket(
    new_run: Callable[[], Location], s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are code, a file is gone, and both the run and its report lie in a bucket."""
    place, plain = Location.of(s3_uri("media/runs/a", s3)), new_run()
    for part in (plain / "clips").files():
        (place / "clips" / part.name).write_bytes(part.read_bytes())
    table = ClipTable.open(place / "clips")
    rows = table.rows(np.arange(48), SCHEMA.names)
    hostile = ["</script><script>alert(1)</script>", "=1+1", "a\nb", "\u202eright", "x" * 300]
    labels = [hostile[n % 5] for n in range(48)]
    uris = rows["uri"].to_pylist()
    uris[7] = str(tmp_path / "=gone.mp4")
    for name, values in (("label", labels), ("uri", uris)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, [values])
    rewrite_clips(place, rows)
    pretrain(tiny(f"run='{place.full_uri}'", "method=cdc", "clips.max_rejected=0.2"))
    out = Location.of(s3_uri("media/reports/a", s3))
    report([place.full_uri, out.full_uri])
    assert "missing 1" in capsys.readouterr().out
    script = (out / "data" / "clips.js").read_bytes().decode()
    assert "</script" not in script
    assert set(value_of(out, "clips")["labels"]) == set(hostile)
    page = value_of(out, "report")
    assert ([c["name"] for c in page["clusterings"]], page["across"]) == (["joint"], [])
    assert page["map"]
    assert page["playable"] == 47
    rejected = [row for row in value_of(out, "rejects")["rows"] if row[1] == "missing"]
    assert rejected
    assert all(row[2].endswith("/=gone.mp4") for row in rejected)
    assert (value_of(out, "labels/joint/1") == -1).sum() == 1


def test_a_run_that_has_only_begun(new_run: Callable[[], Location], tmp_path: Path) -> None:
    Run.open(tiny(f"run={new_run()}"))
    report([str(tmp_path / "run"), str(tmp_path / "out")])
    page = value_of(Location.of(tmp_path / "out"), "report")
    assert (page["state"], page["clusterings"], page["map"]) == ("begun", [], False)
    assert page["verdicts"][0]["title"] == "No clusters yet"
    assert page["playable"] == 48, "the clips can be looked at already"


def test_the_media_take_as_much_as_they_may(
    calm: Calm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left out is said; with more room the same folder is filled up."""
    place, media = tmp_path / "out", tmp_path / "out" / "media"
    report([str(calm.place), str(place), "--megabytes", "0"])
    assert value_of(Location.of(place), "report")["playable"] == 0
    assert (
        "the media of 0 clips take 0 MB, those of 48 more are left out" in capsys.readouterr().out
    )
    report([str(calm.place), str(place), "--megabytes", "0.001"])  # the first that come fill it
    some = len(list(media.glob("*.mp4")))
    assert some > 0
    report([str(calm.place), str(place)])
    assert len(list(media.glob("*.mp4"))) == 48
    report([str(calm.place), str(place), "--megabytes", "0.001"])
    assert value_of(Location.of(place), "report")["playable"] == 1, "the first fills it"
    assert len(list(media.iterdir())) == 3


def test_bad_arguments_are_named(calm: Calm, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--clips is 0"):
        report([str(calm.place), str(tmp_path / "a"), "--clips", "0"])
    with pytest.raises(UserError, match="is not a run yet"):
        report([str(tmp_path), str(tmp_path / "b")])


def test_it_opens_by_double_click_and_plays(made: Location, visit: Visit) -> None:
    folder = Path(made.path)
    for view in ("overview", "across/2", "across/2/flow/audio", "map", "nearest/0", "rejects"):
        assert len(visit(folder, view).locator("#view").inner_text()) > 20
    page = visit(folder, "clusters/audio/2")
    assert page.locator(".card").count() == 4
    page.locator(".card .tile").first.click()
    film = "document.querySelector('#player video')"
    page.wait_for_function(f"{film}?.currentTime > 0.2", timeout=60_000)
    assert page.evaluate(f"{film}.videoWidth") > 0
    assert page.evaluate(f"{film}.webkitAudioDecodedByteCount") > 0
