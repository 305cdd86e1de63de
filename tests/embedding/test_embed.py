"""A pass over all clips that was killed goes on from what it wrote."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray
import torch

from pipeline import encoders
from pipeline.clips.rejects import RejectedClip
from pipeline.clips.stream import row_of
from pipeline.clips.table import ClipTable, append
from pipeline.embedding import embed as embedding
from pipeline.embedding import executors
from pipeline.embedding.embed import EmbeddingTask
from pipeline.embedding.encode import Encode
from pipeline.embedding.executors import ENCODES
from pipeline.embedding.shards import REJECTS, as_feature_array, of_rows, read_features, write_shard
from pipeline.embedding.written import discard, finish
from pipeline.errors import UserError
from pipeline.manifest import Damaged, unsigned
from pipeline.storage import Location, from_parquet
from pipeline.telemetry.progress import Progress
from tests.clips.decoding.media_factory import GeneratedVideo, with_noise, write
from tests.conftest import copy_clips, rewrite_clips, tiny

BOTH = ("video", "audio")
TWO_ACTORS = ("embedding.min_actors=2", "embedding.max_actors=2")
TIMES = {"seconds": 0, "start_seconds": 0}


@dataclass(frozen=True)
class Whole:
    """A pass over the clips of `run`, undisturbed."""

    out: dict[str, Location]
    counts: dict[str, Any]


@pytest.fixture(scope="module")
def whole(indexed: Location, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    out = {m: Location.of(folder / "out" / m) for m in BOTH}
    return Whole(out, embed(with_one_gone(copy_clips(indexed, Location.of(folder))), out))


@pytest.fixture
def run(new_run: Callable[[], Location]) -> Location:
    """48 clips, of which the fourth one's file is gone."""
    return with_one_gone(new_run())


def with_one_gone(place: Location) -> Location:
    part = place / "clips" / "part-000000.parquet"
    table = part.read_table()
    uris = table["uri"].to_pylist()
    uris[3] = "/nowhere/gone.mp4"
    rewrite_clips(place, table.set_column(table.column_names.index("uri"), "uri", [uris]))
    return place


def embed(run: Location, out: dict[str, Location], *settings: str) -> dict:
    config = tiny("embedding.max_rows_per_file=16", *settings)
    weights = run / "encoders.safetensors"
    if not weights.exists():
        encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
    clips = ClipTable.open(run / "clips")
    place = out["video"] / ".." / "rejects"
    task = EmbeddingTask(clips.publish(), weights, out, place, config, "embed")
    return embedding.embed(task)


def record_of(folder: Location, name: str) -> pa.Table:
    return from_parquet(unsigned((folder / "_written" / name).read_bytes()))


def starts(folder: Location) -> dict[int, str]:
    """First clip of every shard → its name."""
    names = [place.name for place in (folder / "_written").files(".parquet")]
    return {int(record_of(folder, name)["clip_index"][0].as_py()): name for name in names}


def first_rows(folder: Location, name: str, rows: int) -> None:
    """As if this write had held the clips below `rows` alone."""
    noted = json.loads(record_of(folder, name).schema.metadata[b"record"])["origin"]
    shard = (folder / name).read_table()
    shard = shard.filter(pa.array(shard["clip_index"].to_numpy() < rows))
    columns = {"clip_index": shard["clip_index"], folder.name: shard["features"]}
    table = pa.table(columns | {"rejects": pa.nulls(len(shard), REJECTS)})
    write_shard(folder, folder.name, name, table, Noted(noted))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Noted:
    """An origin that was noted before."""

    values: dict[str, Any]

    def noted(self, modality: str) -> dict[str, Any]:
        return self.values


def same_features(out: dict[str, Location], whole: dict[str, Location], clips: int = 48) -> None:
    for modality in BOTH:
        features, present = read_features(out[modality], clips)
        expected, expected_present = read_features(whole[modality], clips)
        assert np.array_equal(present, expected_present)
        assert np.array_equal(features, expected)
        rows = sum(len(part.read_table()) for part in out[modality].files(".parquet"))
        assert rows == present.sum(), "a clip is written once"


def test_goes_on_where_it_was_killed(
    run: Location, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three writes one is whole, one has half of a slot, one lacks its record."""
    killed = {m: Location.of(tmp_path / "killed" / m) for m in BOTH}
    monkeypatch.setattr(embedding, "finish", lambda *_: None)
    embed(run, killed)
    by_start = starts(killed["video"])
    assert len(by_start) == 3
    for folder in killed.values():
        first_rows(folder, by_start[16], 26)
    (killed["video"] / "_written" / by_start[32]).delete()  # the sound's record was written
    kept = (killed["video"] / by_start[0]).info().mtime_ns

    monkeypatch.setattr(embedding, "finish", finish)
    resumed = embed(run, killed)
    assert resumed | TIMES == whole.counts | TIMES
    assert resumed["clips"] == 48
    assert resumed["rejected"] == 1
    assert (killed["video"] / by_start[0]).info().mtime_ns == kept, "made again"
    same_features(killed, whole.out)
    rejected = [p.read_table() for p in Location.of(tmp_path / "killed" / "rejects").files()]
    # It was tried twice, and both tries are told.
    assert [(t["reason"].to_pylist(), t["attempt"].to_pylist()) for t in rejected] in (
        [(["missing"], [1]), (["missing"], [2])],
        [(["missing"], [2]), (["missing"], [1])],
    )


def test_several_datasets_write_what_one_does(
    run: Location, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "ACTORS_EACH", 1)
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    assert embed(run, out, *TWO_ACTORS) | TIMES == whole.counts | TIMES
    parts = {name.split("-")[1] for name in starts(out["video"]).values()}
    assert len(parts) == 2, "each of the datasets wrote"
    same_features(out, whole.out)


@pytest.mark.parametrize(
    ("address", "title"), [("", "ray::MapBatches(encode_here)"), ("a cluster", "ray::MapWorker")]
)
def test_the_process_of_an_encoder_is_killed(
    run: Location,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    title: str,
) -> None:
    """Tasks encode in a Ray of this job, and actors in a cluster."""
    monkeypatch.setattr(executors, "given_address", lambda: address)
    killed = threading.Thread(target=kill_one, args=(title,), daemon=True)
    killed.start()
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    assert embed(run, out, *TWO_ACTORS) | TIMES == whole.counts | TIMES
    killed.join(timeout=10)
    assert not killed.is_alive(), f"there was no {title}"
    same_features(out, whole.out)


def test_the_process_of_tasks_that_encode_stays(
    run: Location, whole: Whole, tmp_path: Path
) -> None:
    """It has imported torch; that of an actor ends with the pass."""
    with_torch = ray.remote(num_cpus=0, runtime_env=ENCODES)(lambda: "torch" in sys.modules)
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    assert embed(run, out) | TIMES == whole.counts | TIMES
    assert ray.get(with_torch.remote())


def test_the_process_of_a_dataset_is_killed(
    run: Location,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(executors, "ACTORS_EACH", 1)
    killed = threading.Thread(target=kill_one, args=("ray::embed_part",))
    killed.start()
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    assert embed(run, out, *TWO_ACTORS) | TIMES == whole.counts | TIMES
    killed.join()
    assert "one of its processes died" in capsys.readouterr().out
    same_features(out, whole.out)


def kill_one(title: str) -> None:
    """The first process below this one that bears this title."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                    process.kill()
                    return
        time.sleep(0.02)


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
    rewrite_clips(run, table)
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
    run: Location, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    kept = np.array([0, 7, 8, 20, 21, 47])
    values = np.full((6, 128), 7, np.float16)
    table = pa.table(
        {"clip_index": kept, "rejects": pa.nulls(6, REJECTS)}
        | {m: as_feature_array(values, np.ones(6, bool)) for m in BOTH}
    )
    for modality, folder in out.items():
        write_shard(folder, modality, "bank-000000003-0000.parquet", table, None)
    # Killed after its last write but one: the rest keeps its batches, and is made alone.
    monkeypatch.setattr(embedding, "finish", lambda *_: None)
    embed(run, out)
    (out["video"] / "_written" / starts(out["video"])[max(starts(out["video"]))]).delete()
    monkeypatch.undo()
    counts = embed(run, out)
    assert (counts["clips"], counts["video"], counts["rejected"]) == (48, 47, 1)
    for modality in BOTH:
        features, present = read_features(out[modality], 48)
        expected, expected_present = read_features(whole.out[modality], 48)
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
    monkeypatch.setattr(embedding, "finish", lambda *_: None)
    first = embed(run, out)
    monkeypatch.undo()
    assert embed(run, out) | TIMES == first | TIMES
    assert (out["audio"] / "_DONE").exists()
    assert embed(run, out) == {}, "all is there"


def flip(place: Location) -> None:
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 4
    place.write_bytes(bytes(data))


def test_damaged_shards_are_found_and_made_again(
    run: Location, whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    embed(run, out)
    first, second, third = sorted(starts(out["video"]).values())
    (out["video"] / first).delete()  # gone
    (out["video"] / second).write_bytes((out["video"] / second).read_bytes()[:-9])  # cut
    flip(out["video"] / "_written" / third)
    (out["audio"] / "_DONE").write_bytes(b"")
    capsys.readouterr()
    assert embed(run, out)["video"] == 47
    told = capsys.readouterr().out
    assert "is damaged" not in told
    for what in (f"{out['video'] / first}: it is gone", f"{second} is not as it was", "_DONE: it"):
        assert what in told
    same_features(out, whole.out)
    flip(out["audio"] / sorted(starts(out["audio"]).values())[1])  # found when it is loaded
    with pytest.raises(Damaged, match="content has changed") as raised:
        read_features(out["audio"], 48)
    discard(raised.value)
    assert embed(run, out)["audio"] == 47
    same_features(out, whole.out)


def test_features_of_other_weights_or_settings_do_not_count(
    run: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    embed(run, out)
    assert embed(run, out, "clips.video.flip=false")["clips"] == 48
    config = tiny()
    encoders.save_weights(encoders.build(config.encoders, seed=1), run / "encoders.safetensors")
    capsys.readouterr()
    assert embed(run, out)["clips"] == 48
    assert "is of other weights, settings or clips" in capsys.readouterr().out


@pytest.mark.parametrize("datasets", [1, 2])
def test_an_outage_stops_the_pass_and_the_next_one_tries_again(
    new_run: Callable[[], Location], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: int
) -> None:
    """Half of the media are away for a while; what was written of the others is not lost."""
    monkeypatch.setattr(executors, "ACTORS_EACH", 2 // datasets)
    run = new_run()
    part = run / "clips" / "part-000000.parquet"
    table = part.read_table()
    away = tmp_path / "away"
    away.mkdir()
    uris = table["uri"].to_pylist()
    moved = {uri: str(away / Path(uri).name) for uri in uris[:20]}
    place = table.column_names.index("uri")
    rewrite_clips(run, table.set_column(place, "uri", [[moved.get(uri, uri) for uri in uris]]))
    whole, out = ({m: Location.of(tmp_path / name / m) for m in BOTH} for name in ("whole", "out"))
    with pytest.raises(UserError, match=r"of 48 clips could not be read \(missing"):
        embed(run, out, *TWO_ACTORS)
    assert not (out["video"] / "_DONE").exists()
    assert not (out["audio"] / "_DONE").exists()
    for uri, to in list(moved.items())[1:]:  # one is gone for good, which is no outage
        os.symlink(uri, to)
    embed(run, whole, *TWO_ACTORS)
    counts = embed(run, out, *TWO_ACTORS)
    assert (counts["rejected"], counts["video"]) == (1, 47)
    same_features(out, whole)


def test_features_of_new_clips_are_added(
    new_run: Callable[[], Location], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run()
    clips = run / "clips"
    table = (clips / "part-000000.parquet").read_table()
    rewrite_clips(run, table[:40])
    whole, out = ({m: Location.of(tmp_path / name / m) for m in BOTH} for name in ("whole", "out"))
    assert embed(run, out)["clips"] == 40
    append(clips, [table[40:]])
    assert embed(run, out)["clips"] == 48
    assert "there are 8 more clips than" in capsys.readouterr().out
    embed(run, whole)
    same_features(out, whole)


def test_an_encoder_whose_features_are_too_large_for_float16(run: Location, tmp_path: Path) -> None:
    networks = encoders.build(tiny().encoders, seed=0)
    with torch.no_grad():
        for parameter in list(networks["audio"].parameters())[-2:]:
            parameter.mul_(1e9)
    encoders.save_weights(networks, run / "encoders.safetensors")
    out = {m: Location.of(tmp_path / "out" / m) for m in BOTH}
    assert embed(run, out)["audio"] == 47
    features, _ = read_features(out["audio"], 48)
    assert np.isfinite(features).all()
    assert np.abs(features).max() == np.finfo(np.float16).max


def test_a_clip_whose_features_are_no_numbers_is_a_reject(local_ray: None) -> None:
    """One NaN in a clip's sound: the clip loses that modality, its neighbours nothing."""
    config = tiny()
    weights = None
    encode = Encode(weights, BOTH, config, "cpu", Progress("embed", 2, "clips").meter)
    audio = np.zeros((2, config.clips.audio.samples), np.float32)
    audio[1, 100] = np.nan
    size, frames = config.clips.video.size, config.clips.video.frames
    batch = {
        "slot": np.int64(0),
        "clip_index": np.array([7, 8]),
        "rejects": RejectedClip.dumps([]),
        "names": '[["a.mp4", "a0"], ["b.mp4", "b0"]]',
        "video": np.zeros((2, frames, size, size, 3), np.uint8),
        "audio": audio,
        **{f"has_{m}": np.ones(2, bool) for m in BOTH},
    }
    row = encode(row_of([batch], 1))
    assert len(row) == 1, "one block, however small those are that are asked for"
    table = of_rows([row])
    assert [row is None for row in table["audio"].to_pylist()] == [False, True]
    assert table["video"].null_count == 0
    ((reject,),) = [row for row in table["rejects"].to_pylist() if row]
    assert (reject["modality"], reject["reason"]) == ("audio", "not_finite")
    assert (reject["uri"], reject["clip_id"]) == ("b.mp4", "b0")


def test_what_float16_cannot_hold_is_clamped() -> None:
    values = np.array([[1e6, -np.inf], [2.0, 3.0]], np.float32)
    column = as_feature_array(values, np.array([True, False]))
    assert column.to_pylist() == [[65504.0, -65504.0], None]
