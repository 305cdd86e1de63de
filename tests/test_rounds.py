"""Whole runs on a real Ray: each method, the files it leaves, its death and its resurrection."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import encoders
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.errors import UserError
from pipeline.evaluation.rounds import as_table, evaluate_rounds
from pipeline.methods import METHODS
from pipeline.rounds import pretrain
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import TINY, s3_uri, tiny

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).resolve().parents[1]


def label_files(run: Location) -> dict[str, bytes]:
    """Every pseudo-label file of a run by its path inside it."""
    return {
        info.path.split("/rounds/")[1]: (
            run / "rounds" / info.path.split("/rounds/")[1]
        ).read_bytes()
        for info in (run / "rounds").children(recursive=True)
        if info.is_file and "/labels/" in info.path
    }


@pytest.mark.parametrize("method", ["sdc", "mdc", "cdc", "xdc", "anchored_audio"])
def test_a_whole_run_with_two_workers(method: str, new_run: Callable[[], Location]) -> None:
    place = new_run()
    config = tiny(f"run={place}", f"method={method}", "learning.workers=2", "learning.batch_size=4")
    run = pretrain(config)
    assert run.last_round() == 1
    before, after = (encoders.build(config.encoders, seed=9) for _ in range(2))
    encoders.load_weights(before, run.round(0).encoders)
    encoders.load_weights(after, run.round(1).encoders)
    for name, tensor in after.state_dict().items():
        assert torch.isfinite(tensor.float()).all(), name
    for modality in ("video", "audio"):
        name = next(n for n, _ in before.named_parameters() if n.startswith(modality))
        assert not torch.equal(before.state_dict()[name], after.state_dict()[name])
    for name in METHODS[method].clusterings:
        labels = read_labels(run.round(1).clusters(name), 48)
        assert labels.shape == (48,)
        assert set(labels) == set(range(4))
    metrics = run.round(1).metrics.read_json()
    for update, learned in zip(METHODS[method].updates, metrics["updates"]):
        assert learned["workers"] == 2
        heads = {f"loss_{m}_{name}" for m, names in update.heads.items() for name in names}
        assert heads <= learned["epochs"][-1].keys()
    events = [json.loads(line) for line in (place / "events.jsonl").read_bytes().splitlines()]
    assert [e["event"] for e in events if e["event"] in ("learn", "round")][-1] == "round"


def test_going_on_adds_rounds_and_other_settings_are_refused(
    new_run: Callable[[], Location],
) -> None:
    place = new_run()
    first = pretrain(tiny(f"run={place}"))
    weights = first.round(1).encoders.read_bytes()
    second = pretrain(tiny(f"run={place}", "rounds=2"))
    assert second.last_round() == 2
    assert second.round(1).encoders.read_bytes() == weights
    with pytest.raises(UserError, match=r"clustering\.k: 4 → 5.*\n.*another run directory"):
        pretrain(tiny(f"run={place}", "rounds=2", "clustering.k=5"))
    assert second.round(2).is_done, "nothing was damaged"
    report = evaluate_rounds(second, [0, 1, 2], "test")
    assert [row["round"] for row in report["rounds"]] == [0, 1, 2]
    assert "0 (random)" in as_table(report)


def test_a_run_in_a_bucket(indexed: Location, s3: str) -> None:
    place = Location.of(s3_uri("media/runs/xdc", s3))
    for part in (indexed / "clips").files():
        (place / "clips" / part.name).write_bytes(part.read_bytes())
    run = pretrain(tiny(f"run='{place.full_uri}'"))
    assert run.last_round() == 1
    assert len(label_files(place)) == 4
    assert (place / "events.jsonl").exists()
    assert list((place / "tensorboard").files())


def run_job(config: list[str], until: str | None) -> int | None:
    """Run jobs/pretrain.py; with `until`, kill -9 it once its diary holds that text."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    job = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *config, "resources.local_cpus=5"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert job.stdout is not None
    output = []
    for line in job.stdout:
        output.append(line)
        if until is not None and until in line:
            job.send_signal(signal.SIGKILL)
            job.wait()
            return None
    assert until is None, f"{until!r} never came:\n{''.join(output)}"
    assert job.wait() == 0, "".join(output)
    return 0


def test_killed_twice_it_ends_with_the_labels_of_an_undisturbed_run(
    new_run: Callable[[str], Location],
) -> None:
    settings = [*TINY, "rounds=2", "learning.threads=1"]
    calm, chased = new_run("calm"), new_run("chased")
    pretrain(tiny(f"run={calm}", *settings[-2:]))
    run_job([*settings, f"run={chased}"], until="round 1/2 · cluster")
    run_job([*settings, f"run={chased}"], until="round 2/2 · embed")
    run_job([*settings, f"run={chased}"], until=None)
    expected = label_files(calm)
    assert len(expected) == 6  # two clusterings of the encoders of rounds 0, 1 and 2
    assert label_files(chased) == expected


def test_lost_clips_are_in_the_rounds_rejects(
    new_run: Callable[[], Location], tmp_path: Path
) -> None:
    place = new_run()
    part = place / "clips" / "part-000000.parquet"
    clips = part.read_table()
    uris = clips["uri"].to_pylist()
    uris[5] = str(tmp_path / "gone.mp4")
    position = clips.schema.get_field_index("uri")
    part.write_table(clips.set_column(position, "uri", pa.array(uris)))
    run = pretrain(tiny(f"run={place}"))
    rejects = [row for p in run.round(1).rejects.files() for row in p.read_table().to_pylist()]
    assert [(Path(r["uri"]).name, r["reason"], r["stage"]) for r in rejects] == [
        ("gone.mp4", "missing", "embed")
    ]
    assert read_labels(run.round(0).clusters("audio"), 48)[5] == -1
    assert np.all(read_labels(run.round(0).clusters("audio"), 48)[:5] >= 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["clustering.k=49"], "k=49 exceeds the 48 clips"),
        (["method=dino"], "unknown method"),
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
    run.commit(run.round(0), {})
    run.round(1).metrics.write_json({})
    assert run.last_round() == 0
    (run.round(1).location / "DONE").write_text("")  # died before the pointer was written
    assert run.last_round() == 1


def test_clip_tables_of_other_schema_versions_are_refused(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "clips"
    (place / "part-000000.parquet").write_table(pa.table({"clip_index": [0]}))
    with pytest.raises(UserError, match="schema"):
        ClipTable.open(place)


def test_time_goes_on(tmp_path: Path) -> None:
    """The diary is appended to, never rewritten."""
    from pipeline.events import EventLog

    place = Location.of(tmp_path)
    for number in range(2):
        log = EventLog(place)
        log.add("round", round=number, seconds=1.5)
        log.close()
        time.sleep(0.01)
    lines = [json.loads(line) for line in (place / "events.jsonl").read_bytes().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert lines[0]["time"] < lines[1]["time"]
