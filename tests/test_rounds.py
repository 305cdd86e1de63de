"""Whole runs on a real Ray: each method, the files it leaves, its death and its resurrection."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import encoders
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable
from pipeline.clustering import measures, read_labels
from pipeline.clustering.agreement import agreement
from pipeline.embedding.shards import read_features
from pipeline.errors import UserError
from pipeline.evaluation.protocols import evaluate_rounds
from pipeline.evaluation.report import by_round
from pipeline.methods import METHODS, MODALITIES
from pipeline.rounds import Pretraining, pretrain
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import TINY, copy_clips, rewrite_clips, s3_uri, tiny
from tests.secrets_found import found_secrets
from tests.whole_runs import CALM, Calm, results, run_job

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("method", "first"),
    [
        pytest.param("sdc", "random", marks=pytest.mark.cluster),
        pytest.param("mdc", "random", marks=pytest.mark.cluster),
        ("cdc", "raw"),
        ("xdc", "random"),
    ],
)
def test_a_whole_run_with_two_workers(
    method: str, first: str, new_run: Callable[[], Location]
) -> None:
    more = ["learning.workers=2", "learning.batch_size=4", "embedding.keep=true"]
    if method == "cdc":
        more.append("clips.split=train")
    config = tiny(f"run={new_run()}", f"method={method}", f"clustering.first={first}", *more)
    run = pretrain(config)
    check_one_round(run, workers=2)
    chosen = ClipTable.open(run.clips).in_splits(config.clips.split)
    for number, name in ((0, "joint"), (1, "joint")) if method == "cdc" else ():
        assert np.array_equal(read_labels(run.round(number).clusters(name), 48) >= 0, chosen)
    zero = run.round(0)
    assert (zero.raw("video") / "_DONE").exists() == (first == "raw")
    assert (zero.features("video") / "_DONE").exists() == (first == "random")
    assert (run.round(1).features("video") / "_DONE").exists()
    if first == "raw":
        assert read_features(zero.raw("video"), 48)[0].shape[1] == 48, "colours of 4×4 cells"


@pytest.mark.cluster
def test_features_kept_from_training(
    new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["embedding.from_training=true", "embedding.keep=true", "rounds=2"]
    run = pretrain(tiny(f"run={new_run()}", "method=anchored_audio", *more))
    assert run.last_round() == 2
    for number in (1, 2):
        for modality in ("video", "audio"):
            features, present = read_features(run.round(number).features(modality), 48)
            assert present.all()
            names = [p.name for p in run.round(number).features(modality).files(".parquet")]
            assert any(name.startswith("bank") for name in names)
            assert np.isfinite(features).all()
    assert capsys.readouterr().out.count("training kept the features of") == 4


def clusterings_of(run: Run) -> list[dict[str, Any]]:
    lines = (run.location / "events.jsonl").read_bytes().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "cluster"]


def test_where_files_hold_several_clips_what_these_share_is_told_apart(
    calm: Calm, world: Path, tmp_path: Path
) -> None:
    config = tiny(f"run={tmp_path / 'cut'}", "index.window_s=0.6")
    index(str(world.parent / "media"), Location.of(tmp_path / "cut"), config)
    run = pretrain(config)
    first_audio, first_video, video, audio = clusterings_of(run)
    files = np.unique(ClipTable.open(run.clips).column("uri").to_pylist(), return_inverse=True)[1]
    assert len(files) == 96, "two clips a file"
    labels = {m: read_labels(run.round(0).clusters(m), 96) for m in MODALITIES}
    for told, modality in ((first_audio, "audio"), (first_video, "video")):
        expected = measures.adjusted_mutual_information(files, labels[modality])
        assert told["ami_to_files"] == pytest.approx(expected)
    assert first_video["agreement_with_audio_beyond_files"] == pytest.approx(
        agreement(labels["audio"], labels["video"], files)
    )
    assert "ami_to_files" not in video
    assert "agreement_with_video_beyond_files" in audio

    for told in clusterings_of(Run.existing(str(calm.place))):
        assert not any("files" in name for name in told), "a clip a file: nothing to tell apart"


def check_one_round(run: Run, workers: int) -> None:
    """Both encoders moved, every clustering is there, every head learned, the diary tells it."""
    assert run.last_round() == 1
    before, after = (encoders.build(run.config.encoders, seed=9) for _ in range(2))
    encoders.load_weights(before, run.round(0).encoders)
    encoders.load_weights(after, run.round(1).encoders)
    for name, tensor in after.state_dict().items():
        assert torch.isfinite(tensor.float()).all(), name
    for modality in ("video", "audio"):
        name = next(n for n, _ in before.named_parameters() if n.startswith(modality))
        assert not torch.equal(before.state_dict()[name], after.state_dict()[name])
    method = METHODS[run.config.method]
    for name in method.clusterings:
        labels = read_labels(run.round(1).clusters(name), 48)
        assert labels.shape == (48,)
        assert set(labels) - {-1} == set(range(4))
    metrics = run.round(1).metrics.read_json()
    for update, learned in zip(method.updates, metrics["updates"]):
        assert learned["workers"] == workers
        heads = {f"loss_{m}_{name}" for m, names in update.heads.items() for name in names}
        assert heads <= learned["epochs"][-1].keys()
    diary = (run.location / "events.jsonl").read_bytes().splitlines()
    events = [json.loads(line)["event"] for line in diary]
    assert [event for event in events if event in ("learn", "round")][-1] == "round"


def test_a_run_that_is_older_than_a_setting_goes_on(calm: Calm) -> None:
    saved = Location.of(calm.place / "config.yaml")
    text = saved.read_bytes().decode()
    assert "  from_training: false\n" in text
    saved.write_text(text.replace("  from_training: false\n", ""))
    assert Run.existing(str(calm.place)).last_round() == 2
    assert pretrain(tiny(f"run={calm.place}", *CALM, "rounds=2")).last_round() == 2
    assert saved.read_bytes().decode() == text


def test_other_settings_are_refused(calm: Calm) -> None:
    run = Run.existing(str(calm.place))
    assert run.round(1).encoders.read_bytes() == calm.first, "round 2 left round 1 as it was"
    with pytest.raises(UserError, match=r"clustering\.k: 4 → 5.*\n.*another run directory"):
        pretrain(tiny(f"run={calm.place}", *CALM, "rounds=2", "clustering.k=5"))
    assert run.round(2).is_done, "nothing was damaged"


def test_evaluation_by_round(calm: Calm) -> None:
    report = evaluate_rounds(Run.existing(str(calm.place)), [0, 1, 2], "test")
    assert {row["round"] for row in report["results"]} == {0, 1, 2}
    assert report["learned_from"] == {"test": 14}
    assert "0 (random)" in by_round(report)


def test_a_run_ends_early_once_its_clusters_have_settled(
    calm: Calm, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [*CALM, f"run={calm.place}", "rounds=5"]
    restless = Pretraining.opened(tiny(*more, "settled_nmi=1"), METHODS["xdc"])
    assert not restless.settled(restless.run.round(2))
    patient = Pretraining.opened(tiny(*more, "settled_nmi=0.001", "min_rounds=3"), METHODS["xdc"])
    assert not patient.settled(patient.run.round(2))
    assert pretrain(tiny(*more, "settled_nmi=0.001")).last_round() == 2
    assert "settled (0.001 is enough)" in capsys.readouterr().out


def test_a_run_in_a_bucket_one_of_whose_clips_is_lost(
    indexed: Location, s3: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = copy_clips(indexed, Location.of(s3_uri("media/runs/anchored", s3)))
    part = place / "clips" / "part-000000.parquet"
    clips = part.read_table()
    uris = clips["uri"].to_pylist()
    uris[5] = str(tmp_path / "gone.mp4")
    position = clips.schema.get_field_index("uri")
    rewrite_clips(place, clips.set_column(position, "uri", pa.array(uris)))
    run = pretrain(tiny(f"run='{place.full_uri}'", "method=anchored_audio"))
    check_one_round(run, workers=1)
    assert list((place / "tensorboard").files())
    for number, passes in ((0, 1), (1, 2)):  # each pass has its own
        parts = [part.read_table() for part in run.round(number).rejects.files()]
        rejects = [row for part in parts for row in part.to_pylist() if row["stage"] == "embed"]
        seen = [(Path(r["uri"]).name, r["reason"], r["attempt"]) for r in rejects]
        assert seen == [("gone.mp4", "missing", 1)] * passes
    assert read_labels(run.round(0).clusters("audio"), 48)[5] == -1
    assert np.all(read_labels(run.round(0).clusters("audio"), 48)[:5] >= 0)
    assert not found_secrets(place, "".join(capfd.readouterr()))


def test_killed_twice_it_ends_with_the_labels_of_an_undisturbed_run(
    calm: Calm, new_run: Callable[[], Location]
) -> None:
    place = new_run()
    settings = [*TINY, *CALM, f"run={place}"]
    run_job(settings, until=" · epoch ")
    assert not (place / "rounds" / "0001" / "updates" / "0" / "metrics.json").exists()
    run_job(settings, until="round 1/1 · embed")
    run_job(settings, until=None)
    found = results(place)
    expected = {p: digest for p, digest in results(calm.place).items() if p < "0002"}
    # two clusterings of the encoders of rounds 0 and 1
    assert sum("/labels/" in path for path in expected) == 4
    assert sorted(found) == sorted(expected)
    assert [path for path in sorted(expected) if found[path] != expected[path]] == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["clustering.k=49"], "k=49 exceeds the 48 clips"),
        (["method=dino"], "unknown method"),
        (["clips.decoder=cuda"], "needs GPU nodes, and the cluster has none"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    overrides: list[str], words: str, new_run: Callable[[], Location]
) -> None:
    place = new_run()
    with pytest.raises(UserError, match=words):
        pretrain(tiny(f"run={place}", *overrides))
    assert not (place / "config.yaml").exists()


def test_a_run_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no clips table.*jobs/index\.py"):
        pretrain(tiny(f"run={tmp_path}"))
    with pytest.raises(UserError, match="no run directory"):
        pretrain(tiny())


def test_a_round_counts_only_when_it_is_done(tmp_path: Path) -> None:
    run = Run(Location.of(tmp_path), tiny())
    assert run.last_round() is None
    run.round(0).encoders.write_bytes(b"")
    run.commit(run.round(0), {})
    run.round(1).metrics.write_json({})
    assert run.last_round() == 0
    (run.round(1).location / "_DONE").write_text("")  # died before the pointer was written
    assert run.last_round() == 1


def test_clip_tables_of_other_schema_versions_are_refused(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "clips"
    (place / "part-000000.parquet").write_table(pa.table({"clip_index": [0]}))
    with pytest.raises(UserError, match="schema"):
        ClipTable.open(place)


def test_time_goes_on(tmp_path: Path) -> None:
    """The diary is appended to, never rewritten."""
    from pipeline.telemetry.events import EventLog

    place = Location.of(tmp_path)
    for number in range(2):
        log = EventLog(place)
        log.add("round", round=number, seconds=1.5)
        log.close()
        time.sleep(0.01)
    lines = [json.loads(line) for line in (place / "events.jsonl").read_bytes().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert lines[0]["time"] < lines[1]["time"]
