"""Evaluation while the run is pretrained, twice at once, and of a run that has grown."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import lease, methods
from pipeline.clips.fill import publish_clips
from pipeline.clips.table import SCHEMA, ClipTable, append
from pipeline.clustering import read_labels
from pipeline.errors import UserError
from pipeline.evaluation.protocols import PSEUDO_LABELS, evaluate_rounds
from pipeline.methods import MODALITIES
from pipeline.rounds import Pretraining, pretrain
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.events import EventLog
from tests.conftest import TINY, tiny
from tests.evaluation.conftest import begun
from tests.whole_runs import ROOT, Calm, results, run_job

# An embedding that writes a file a batch, so that there is a middle.
SLOW = ("embedding.max_rows_per_file=4",)


def label(run: Run) -> None:
    """Pretraining's embedding and clustering with the random encoders."""
    published = publish_clips(ClipTable.open(run.clips), run.location, run.config)
    log = EventLog(run.location)
    Pretraining(run, methods.get("xdc"), published, log).label(run.round(0))
    log.close()


def labels(run: Run) -> list[list[int]]:
    """Pseudo-labels by the random encoders."""
    return [read_labels(run.round(0).clusters(m), 48).tolist() for m in MODALITIES]


def features_in(run: Run) -> bool:
    return any(Path(str(run.round(0).location)).rglob("features/**/*.parquet"))


def test_evaluation_neither_disturbs_an_embedding_nor_counts_on_it(
    calm: Calm, new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    busy = begun(new_run("busy"), *SLOW)
    pretraining = threading.Thread(target=label, args=(busy,))
    pretraining.start()
    while not features_in(busy):
        time.sleep(0.01)
    beside = evaluate_rounds(busy, [0], "test")
    pretraining.join()
    assert "random · embed video and audio" in capsys.readouterr().out, "its own features"
    assert labels(busy) == labels(Run.existing(str(calm.place)))
    linear = [row for row in beside["results"] if row["protocol"] == "linear"]
    after = evaluate_rounds(busy, [0], "test")
    assert after["results"][: len(linear)] == linear
    assert "random · embed" not in capsys.readouterr().out, "those of the round"

    # One clip more than the round's features and clusters are of.
    clips = ClipTable.open(busy.clips)
    more = clips.rows(np.array([0]), SCHEMA.names)
    position = SCHEMA.get_field_index("clip_id")
    append(busy.clips, [more.set_column(position, "clip_id", pa.array(["new"]))])
    grown = evaluate_rounds(busy, [0], "test")
    assert grown["examples"]["indexed"] == 49
    clusters = [row for row in grown["results"] if row["protocol"] == PSEUDO_LABELS]
    assert clusters == [row for row in after["results"] if row["protocol"] == PSEUDO_LABELS]
    assert len(clusters) == 2

    # Two evaluations of the same at once.
    leases = Path(str(busy.location / "evaluation")).rglob("_LEASE")
    newest = max(leases, key=lambda place: place.stat().st_mtime_ns)
    # A holder that renews late looks dead for a moment, and takes it back.
    words = r"(works on|has just begun to work on) the evaluation .*; wait"
    with lease.hold(Location.of(newest), "it", ttl_s=1.5), pytest.raises(UserError, match=words):
        evaluate_rounds(busy, [0], "test")


@pytest.mark.chaos
def test_is_it_learning(new_run: Callable[[], Location]) -> None:
    """Both jobs, again and again while the run is pretrained; it ends as an undisturbed one."""
    undisturbed, busy = new_run("undisturbed"), new_run("busy")
    settings = [*TINY, *SLOW, "learning.threads=1"]
    pretrain(tiny(*settings, f"run={undisturbed}"))
    job = threading.Thread(target=run_job, args=([*settings, f"run={busy}"], None))
    job.start()
    times = 0
    while job.is_alive():
        ended = subprocess.run(
            [sys.executable, str(ROOT / "jobs" / "evaluate.py"), str(busy)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        begun_yet = "is not a run yet" in ended.stderr or "no finished round" in ended.stderr
        assert ended.returncode == 0 or begun_yet, ended.stderr
        times += ended.returncode == 0
    assert times
    assert results(busy) == results(undisturbed)
