"""Dense windows, and the files that tools of temporal localisation read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.embed import main as embed
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, write

EVERY_S, SPAN_S, FPS = 0.5, 1.0, 25
BOTH = ("video", "audio")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Names that differ by their suffix alone, one in a folder below, and one that is short."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "more").mkdir()
    write(folder / "a.mp4", GeneratedVideo(seconds=4.0))
    write(folder / "a.mkv", GeneratedVideo(seconds=3.0))
    write(folder / "more" / "c.mp4", GeneratedVideo(seconds=0.7))
    return folder


@pytest.fixture(scope="module")
def dense(begun: Location, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense") / "out"
    every = ["--every", str(EVERY_S), "--npz-per-video"]
    embed([str(media), str(out), "--encoder", str(begun), *every])
    return out


def test_dense_windows_are_as_long_as_a_clip_and_equal_cuts_there(
    begun: Location, media: Path, dense: Path, tmp_path: Path
) -> None:
    found = pq.read_table(dense / "vectors" / "video").to_pylist()
    of_a = {row["start_s"]: row for row in found if row["uri"].endswith("a.mp4")}
    assert sorted(of_a) == [n * EVERY_S for n in range(7)]
    assert {row["end_s"] - row["start_s"] for row in of_a.values()} == {SPAN_S}
    cuts = tmp_path / "cuts.csv"
    rows = [f"{media / 'a.mp4'},{start},{start + SPAN_S}" for start in (0.5, 2.0)]
    cuts.write_text("\n".join(["uri,start_s,end_s", *rows]))
    embed([str(cuts), str(tmp_path / "out"), "--encoder", str(begun)])
    of_cuts = pq.read_table(tmp_path / "out" / "vectors" / "video").to_pylist()
    assert [row["start_s"] for row in of_cuts] == [0.5, 2.0]
    for row in of_cuts:
        assert np.allclose(row["vector"], of_a[row["start_s"]]["vector"], atol=2e-3)


def test_a_file_for_each_media_file_with_the_rows_of_its_windows(dense: Path) -> None:
    """Read as ActionFormer reads EPIC-Kitchens: a folder, an id, an extension, the key feats."""
    for modality in BOTH:
        folder = dense / "files" / modality
        names = sorted(str(place.relative_to(folder)) for place in folder.rglob("*.npz"))
        assert names == ["a.mkv.npz", "a.mp4.npz", "more/c.npz"]
        table = pq.read_table(dense / "vectors" / modality).to_pylist()
        with np.load(folder / "a.mp4.npz") as file:
            feats = file["feats"]
            told = {name: float(file[name]) for name in ("fps", "stride", "num_frames", "duration")}
            assert file["present"].all()
        assert (feats.dtype, len(feats)) == (np.float32, 7)
        for row in table:
            if row["uri"].endswith("a.mp4"):
                # Its middle, in seconds: (row * stride + num_frames / 2) / fps.
                middle_s = (row["start_s"] + row["end_s"]) / 2
                number = (middle_s * told["fps"] - told["num_frames"] / 2) / told["stride"]
                assert np.array_equal(feats[round(number)], np.float32(row["vector"]))
        assert told == {
            "fps": FPS,
            "stride": EVERY_S * FPS,
            "num_frames": SPAN_S * FPS,
            "duration": pytest.approx(4.0, abs=0.01),
        }
        with np.load(folder / "more" / "c.npz") as file:
            assert len(file["feats"]) == 1


def test_files_that_are_whole_are_not_written_again(
    begun: Location, media: Path, dense: Path
) -> None:
    def written() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in dense.rglob("*.npz")}

    again = [str(media), str(dense), "--encoder", str(begun)]
    again += ["--every", str(EVERY_S), "--npz-per-video"]
    before = written()
    embed(again)
    assert written() == before
    cut = next(iter(before))
    cut.write_bytes(before[cut][1][:-1])
    embed(again)
    assert {p: data for p, (_, data) in written().items()} == {
        p: data for p, (_, data) in before.items()
    }


def test_what_was_lost_is_a_row_of_zeros(begun: Location, tmp_path: Path) -> None:
    """A file whose sound begins late has windows from there on, at their place."""
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    write(media / "late.mp4", GeneratedVideo(seconds=4.0, audio_from=2.0))
    embed([str(media), str(out), "--encoder", str(begun), "--every", "0.5", "--npz-per-video"])
    starts = pq.read_table(out / "vectors" / "audio")["start_s"].to_pylist()
    with np.load(out / "files" / "audio" / "late.npz") as file:
        assert np.flatnonzero(file["present"]).tolist() == [round(s / 0.5) for s in starts]
        assert not file["feats"][~file["present"]].any()
        assert not file["present"][:2].any()
