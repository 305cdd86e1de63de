"""A pass over all clips that was killed goes on from what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import encoders
from pipeline.clips.table import ClipTable
from pipeline.embedding import embed as embedding
from pipeline.embedding.embed import EmbeddingTask
from pipeline.embedding.shards import (
    REJECTS,
    as_feature_array,
    finish,
    read_features,
    write_shards,
)
from pipeline.storage import Location
from tests.clips.decoding.media_factory import GeneratedVideo, with_noise, write
from tests.conftest import tiny

BOTH = ("video", "audio")
TIMES = {"seconds": 0, "start_seconds": 0}


@pytest.fixture
def run(new_run: Callable[[], Location], tmp_path: Path) -> Location:
    """48 clips, of which the fourth one's file is gone."""
    place = new_run()
    part = place / "clips" / "part-000000.parquet"
    table = part.read_table()
    uris = table["uri"].to_pylist()
    uris[3] = str(tmp_path / "gone.mp4")
    part.write_table(table.set_column(table.column_names.index("uri"), "uri", [uris]))
    return place


def embed(run: Location, out: dict[str, Location]) -> dict:
    config = tiny("embedding.max_rows_per_file=16")
    weights = run / "encoders.safetensors"
    encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
    clips = ClipTable.open(run / "clips")
    place = out["video"] / ".." / "rejects"
    task = EmbeddingTask(clips.publish(), weights, out, place, config, "embed")
    return embedding.embed(task)


def first_rows(place: Location, rows: int) -> None:
    table = place.read_table()
    keep = pa.array(np.isin(table["clip_index"].to_numpy(), np.arange(rows)))
    place.write_table(table.filter(keep))


def test_goes_on_where_it_was_killed(
    run: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three writes one is whole, one has half of a slot, one lacks its record."""
    whole, killed = (
        {m: Location.of(tmp_path / name / m) for m in BOTH} for name in ("whole", "killed")
    )
    undisturbed = embed(run, whole)
    monkeypatch.setattr(embedding, "finish", lambda out: None)
    embed(run, killed)
    records = list((killed["video"] / "written").files(".parquet"))
    assert len(records) == 3
    by_start = {int(r.read_table()["clip_index"][0].as_py()): r.name for r in records}
    for folder in (killed["video"], killed["video"] / "written", killed["audio"]):
        first_rows(folder / by_start[16], 26)
    (killed["video"] / "written" / by_start[32]).delete()
    kept = (killed["video"] / by_start[0]).info().mtime_ns

    monkeypatch.setattr(embedding, "finish", finish)
    resumed = embed(run, killed)
    assert resumed | TIMES == undisturbed | TIMES
    assert resumed["clips"] == 48
    assert resumed["rejected"] == 1
    assert (killed["video"] / by_start[0]).info().mtime_ns == kept, "made again"
    for modality in BOTH:
        features, present = read_features(killed[modality], 48)
        expected, expected_present = read_features(whole[modality], 48)
        assert np.array_equal(present, expected_present)
        assert np.array_equal(features, expected)
        rows = sum(len(part.read_table()) for part in killed[modality].files(".parquet"))
        assert rows == 47, "a clip is written once"
    rejected = [p.read_table() for p in Location.of(tmp_path / "killed" / "rejects").files()]
    assert [table["reason"].to_pylist() for table in rejected] == [["missing"]]


def test_what_a_clip_loses_of_one_modality_is_told(run: Location, tmp_path: Path) -> None:
    """Features of the other, a row of the rejects with the modality, and a count of its own."""
    film = write(tmp_path / "film.mp4", GeneratedVideo(seconds=1.2))
    part = run / "clips" / "part-000000.parquet"
    table = part.read_table()
    uris, sizes = table["uri"].to_pylist(), table["size"].to_pylist()
    for clip, modality in ((5, "audio"), (6, "video")):
        uris[clip], sizes[clip] = str(with_noise(film, modality, -1.0)), None
    for name, values in (("uri", uris), ("size", sizes)):
        place = table.column_names.index(name)
        table = table.set_column(place, name, [pa.array(values, table.schema.field(name).type)])
    part.write_table(table)
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    counts = embed(run, out)
    assert (counts["clips"], counts["rejected"]) == (48, 1)
    assert (counts["lost_video"], counts["lost_audio"]) == (1, 1)
    assert (counts["video"], counts["audio"]) == (46, 46)
    (place,) = Location.of(tmp_path / "out" / "rejects").files()
    rows = place.read_table().to_pylist()
    assert {(Path(row["uri"]).name, row["modality"]) for row in rows} == {
        ("gone.mp4", None),
        ("no_audio_film.mp4", "audio"),
        ("no_video_film.mp4", "video"),
    }


def test_what_training_kept_is_not_made_again(
    run: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = ({m: Location.of(tmp_path / name / m) for m in BOTH} for name in ("whole", "out"))
    embed(run, whole)
    kept = np.array([0, 7, 8, 20, 21, 47])
    values = np.full((6, 128), 7, np.float16)
    table = pa.table(
        {"clip_index": kept, "rejects": pa.nulls(6, REJECTS)}
        | {m: as_feature_array(values, np.ones(6, bool)) for m in BOTH}
    )
    write_shards(out, "bank-000000003-0000.parquet", table)
    # Killed after its last write but one: the rest keeps its batches, and is made alone.
    monkeypatch.setattr(embedding, "finish", lambda out: None)
    embed(run, out)
    last = max(r.name for r in (out["video"] / "written").files(".parquet") if "part" in r.name)
    (out["video"] / "written" / last).delete()
    monkeypatch.undo()
    counts = embed(run, out)
    assert (counts["clips"], counts["video"], counts["rejected"]) == (48, 47, 1)
    for modality in BOTH:
        features, present = read_features(out[modality], 48)
        expected, expected_present = read_features(whole[modality], 48)
        assert np.array_equal(present, expected_present)
        assert (features[kept] == 7).all()
        rest = np.setdiff1d(np.flatnonzero(present), kept)
        # Other clips beside it in its batch change a clip's last bits.
        assert np.allclose(features[rest], expected[rest], atol=2e-3)
        rows = sum(len(part.read_table()) for part in out[modality].files(".parquet"))
        assert rows == 47


def test_a_finished_pass_that_was_not_marked_only_needs_the_mark(
    run: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    monkeypatch.setattr(embedding, "finish", lambda out: None)
    first = embed(run, out)
    monkeypatch.undo()
    assert embed(run, out) | TIMES == first | TIMES
    assert (out["audio"] / "DONE").exists()
    assert not (out["video"] / "written").exists()
