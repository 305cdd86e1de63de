"""The table of vectors: what an embedding pass writes, joined with where each clip is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import safetensors.torch
import torch

from jobs.embed import main as embed
from jobs.export import main as export
from pipeline.clips.sampling import around
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.embedding.shards import read_features
from pipeline.encoders.architectures import new_encoder
from pipeline.errors import UserError
from pipeline.exporting.folder import preprocessing
from pipeline.exporting.loading import load_encoder
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.vectors import media_vectors
from pipeline.vectors.encoder_source import resolve
from tests.clips.decoding.media_factory import GeneratedVideo, write
from tests.conftest import TINY
from tests.vectors.conftest import PARTS

ROOT = Path(__file__).resolve().parents[2]
BOTH = ("video", "audio")


def table(out: Path, modality: str) -> pa.Table:
    return pq.read_table(out / "vectors" / modality)


def matrix(found: pa.Table) -> np.ndarray:
    column = found["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(found), -1)


def contents(out: Path) -> dict[str, bytes]:
    """The table and the rejects, by path."""
    kept = [*(out / "vectors").rglob("*"), *(out / "rejects").rglob("*")]
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(kept) if p.is_file()}


def rejected(out: Path) -> list[dict[str, Any]]:
    return [
        row for p in sorted((out / "rejects").iterdir()) for row in pq.read_table(p).to_pylist()
    ]


def test_the_table_holds_what_an_embedding_pass_writes(
    begun: Location, indexed: Location, whole: Path
) -> None:
    """The run's own pass over the same clips, by the same encoders."""
    clips, last = ClipTable.open(indexed / "clips"), Run.existing(begun.uri).finished_round()
    for modality in BOTH:
        found = table(whole, modality)
        features, present = read_features(last.features(modality), len(clips))
        assert present.all()
        assert np.array_equal(matrix(found), features), "the clips, in their order"
        for column in ("uri", "start_s", "end_s"):
            assert found[column].to_pylist() == clips.column(column).to_pylist()
        assert set(found["modality"].to_pylist()) == {modality}
        assert found.schema.field("vector").type == pa.list_(pa.float16(), features.shape[1])
        names = sorted(place.name for place in (whole / "vectors" / modality).iterdir())
        assert names == [f"part-{n:06d}.parquet" for n in range(3)]


def test_the_clusters_are_those_of_the_run(begun: Location, whole: Path) -> None:
    last = Run.existing(begun.uri).finished_round()
    for modality in BOTH:
        found = table(whole, modality)
        assert found.schema.field("cluster").type == pa.int32()
        assert found.schema.field("distance").type == pa.float32()
        labels = read_labels(last.clusters(modality), 48)
        assert np.array_equal(found["cluster"].to_numpy(), labels)


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    begun: Location, world: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [str(world), str(out), "--encoder", str(begun), PARTS]
    records = out / "work" / "embedded" / "features" / "video" / "_written"
    killed_once_there(records, arguments)
    there = sorted(records.glob("*.parquet"))
    if len(there) == 3:  # the kill came late: one shard is made not to count
        there[0].unlink()
    embed(arguments)
    assert contents(out) == contents(whole)
    made = {path: (out / path).stat().st_mtime_ns for path in contents(out) if "vectors" in path}
    embed(arguments)
    assert made == {path: (out / path).stat().st_mtime_ns for path in made}, "made again"


def killed_once_there(folder: Path, arguments: list[str]) -> None:
    """`kill -9` of the job on the tests' Ray once something lies in the folder."""
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
    command = [sys.executable, str(ROOT / "jobs" / "embed.py"), *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as job:
        while job.poll() is None and not any(folder.glob("*.parquet")):
            time.sleep(0.02)
        job.kill()
    assert job.returncode == -signal.SIGKILL, "it ended before it was killed"


def test_a_kill_while_parts_are_written(
    begun: Location,
    world: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three parts one is whole, one lacks its record, and one was cut short."""
    out = tmp_path / "out"
    arguments = [str(world), str(out), "--encoder", str(begun), PARTS]
    embed(arguments)
    video, records = out / "vectors" / "video", out / "work" / "joined"
    kept = (video / "part-000000.parquet").stat().st_mtime_ns
    (records / "part-000001.parquet.json").unlink()
    (video / "part-000002.parquet").write_bytes(b"PAR1")
    (out / media_vectors.SUMMARY).unlink()
    embed(arguments)
    assert contents(out) == contents(whole)
    assert (video / "part-000000.parquet").stat().st_mtime_ns == kept


def test_media_that_come_later_are_added(begun: Location, tmp_path: Path, local_ray: None) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    write(media / "a.mp4", GeneratedVideo(seconds=1.2))
    arguments = [str(media), str(out), "--encoder", str(begun)]
    embed(arguments)
    write(media / "b.mp4", GeneratedVideo(seconds=1.2))
    embed(arguments)
    names = [Path(uri).name for uri in table(out, "audio")["uri"].to_pylist()]
    assert names == ["a.mp4", "b.mp4"]


def test_what_cannot_be_embedded_is_listed(
    begun: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no media, and one that loses its bytes between indexing and decoding."""
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    (media / "notes.mp4").write_text("no media")
    for name in "abcdefghijklmnopqrstuvwxyz":
        write(media / f"{name}.mp4", GeneratedVideo(seconds=1.2))
    whole = media / "b.mp4"
    broken = whole.read_bytes()
    arguments = [str(media), str(out), "--encoder", str(begun)]
    after = media_vectors.index

    def index_then_lose(*given: Any) -> Any:
        found = after(*given)
        whole.write_bytes(broken[: len(broken) // 2])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media_vectors, "index", index_then_lose)
        embed(arguments)
    rows = {Path(row["uri"]).name: row for row in rejected(out)}
    assert {name: (row["stage"], row["reason"]) for name, row in rows.items()} == {
        "notes.mp4": ("probe", "not_media"),
        "b.mp4": ("embed", "changed"),
    }
    assert all(row["detail"] for row in rows.values())
    assert len(table(out, "video")) == 25
    assert "every reject with its reason (2)" in capsys.readouterr().out


def test_an_export_of_one_modality(
    begun: Location, whole: Path, world: Path, tmp_path: Path
) -> None:
    """Only that modality is embedded, as the run embeds it; what lacks it is a reject."""
    exported, out = tmp_path / "exported", tmp_path / "out"
    export([str(begun), str(exported), "--modality", "audio"])
    media = tmp_path / "media"
    media.mkdir()
    for uri in table(whole, "audio")["uri"].to_pylist()[:16]:  # one batch of the whole table
        (media / Path(uri).name).symlink_to(uri)
    write(media / "silent.mp4", GeneratedVideo(seconds=1.2, audio=None))
    embed([str(media), str(out), "--encoder", str(exported), "embedding.batch_size=16"])
    assert [place.name for place in (out / "vectors").iterdir()] == ["audio"]
    found, expected = table(out, "audio"), table(whole, "audio")
    assert "cluster" not in found.column_names
    ours = dict(zip((Path(u).name for u in found["uri"].to_pylist()), matrix(found)))
    theirs = dict(zip((Path(u).name for u in expected["uri"].to_pylist()), matrix(expected)))
    assert len(ours) == 16
    for name, vector in ours.items():
        assert np.allclose(vector, theirs[name], atol=2e-3)
    (row,) = rejected(out)
    assert (Path(row["uri"]).name, row["reason"]) == ("silent.mp4", "no_streams")
    assert row["detail"] == "it has no sound, for which the encoder is"


def test_an_export_says_how_long_its_clips_are(begun: Location, tmp_path: Path) -> None:
    """Which takes the settings of both modalities: the windows of dense vectors are that long."""
    clips = Run.existing(begun.uri).config.clips
    sound = clips.audio.model_copy(update={"align": "start"})
    odd = clips.model_copy(update={"audio": sound})
    for modality in BOTH:
        (tmp_path / modality).mkdir()
        folder = Location.of(tmp_path / modality)
        facts = {"modality": modality, "architecture": "resnet_small", "batchnorm_eps": None}
        facts |= {"architecture": "r2plus1d_small"} if modality == "video" else {}
        (folder / "config.json").write_json(facts)
        (folder / "preprocessor_config.json").write_json(preprocessing(odd, modality))
        found = resolve(folder.full_uri).clips
        assert found is not None
        assert (found.span_s, around(found)) == (odd.span_s, around(odd))
    assert around(odd) != around(clips)


def test_weights_alone_take_the_settings_of_the_run_they_lie_in(
    begun: Location, whole: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Run.existing(begun.uri).finished_round().encoders
    embed([str(world), str(tmp_path / "a"), "--encoder", weights.uri, "--float32"])
    found = table(tmp_path / "a", "video")
    assert np.array_equal(matrix(found), matrix(table(whole, "video")).astype(np.float32))
    assert "does not say how its clips" not in capsys.readouterr().out
    copied = Location.of(tmp_path / "copied.safetensors")
    copied.write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match=r"holds vectors of another kind .*clips\.audio"):
        embed([str(world), str(tmp_path / "a"), "--encoder", copied.uri, "--float32"])
    assert "does not say how its clips were prepared" in capsys.readouterr().out


def test_encoders_by_the_settings_that_a_run_would_start_with(
    begun: Location, world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of the run itself; of a ``.pth`` that knows no settings, too."""
    network = load_encoder(begun, "video")
    torch.save(network.state_dict(), tmp_path / "video.pth")
    for number, start in enumerate((f"{begun.uri}#0", tmp_path / "video.pth")):
        out = tmp_path / str(number)
        embed([str(world), str(out), f"encoders.video.start={start}", *TINY])
        assert "the settings given here count" in capsys.readouterr().out
        assert [place.name for place in (out / "vectors").iterdir()] == ["video"]
        assert np.array_equal(matrix(table(out, "video")), matrix(table(whole, "video")))


def test_an_image_network_over_frames_embeds(world: Path, tmp_path: Path) -> None:
    name = "timm:test_vit?img_size=32"
    sized = ["clips.video.size=32", "clips.video.short_side=36", "clips.video.frames=4"]
    weights = new_encoder("video", name).state_dict()
    safetensors.torch.save_file(weights, tmp_path / "vit.safetensors")
    start = f"encoders.video.start={tmp_path / 'vit.safetensors'}"
    embed([str(world), str(tmp_path / "out"), f"encoders.video.name={name}", start, *sized])
    found = matrix(table(tmp_path / "out", "video"))
    assert found.shape == (48, 64)
    assert np.isfinite(found.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say whose encoders are to embed: --encoder SOURCE, or encoders.video.start=…"),
        (["--round", "1"], "--round is of the run that --encoder names"),
        (["--encoder", "{run}#x"], "#x: after # stands the number of a round"),
        (["--encoder", "{tmp}"], "there is no encoder in"),
        (["--encoder", "{tmp}/table.csv"], "is not a .safetensors of a run"),
        (["--encoder", "{run}", "--round", "7"], "round 7 does not exist"),
        (["--encoder", "{tmp}", "--round", "0"], "is not a run directory, so it has no round 0"),
        (
            ["--encoder", "{run}", "clips.video.frames=16"],
            "frames=16 contradicts round 0 of {run}, whose encoders were trained with 4",
        ),
        (["--encoder", "{run}", "--every", "0"], "--every is 0; at least 0.01 s are needed"),
        (
            ["--encoder", "{run}", "--every", "1", "index.window_s=3"],
            "index.window_s does not go with --every",
        ),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], words: str, begun: Location, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("uri\n")
    names = {"tmp": tmp_path, "run": begun}
    out = tmp_path / "out"
    with pytest.raises(UserError) as raised:
        embed([str(tmp_path), str(out), *(a.format(**names) for a in arguments)])
    assert words.format(**names) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not out.exists()


def test_a_setting_that_does_nothing_is_told(
    begun: Location, world: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(world), str(whole), "--encoder", str(begun), PARTS]
    embed([*arguments, "clustering.k=9", "clips.video.frames=4"])
    said = capsys.readouterr().out
    assert "warning: not used here: clustering.k\n" in said
