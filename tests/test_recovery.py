"""Runs that grow, that are taken up with other settings, and that two drivers want."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.clips.table import append
from pipeline.clustering import read_labels
from pipeline.errors import UserError
from pipeline.evaluation.protocols import evaluate_rounds
from pipeline.methods import METHODS
from pipeline.recovery import unsound
from pipeline.rounds import Pretraining, pretrain
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import rewrite_clips, tiny
from tests.test_lease import HOLDS
from tests.whole_runs import results

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.chaos
def test_clips_that_are_indexed_into_a_finished_run_are_learned(
    new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    place = new_run()
    table = (place / "clips" / "part-000000.parquet").read_table()
    rewrite_clips(place, table[:40])
    # The last clusters of the first round are also what its second update learned from.
    settings = [f"run={place}", "method=anchored_audio", "settled_nmi=0.001", "min_rounds=2"]
    settings.append("learning.held_out=0")
    assert pretrain(tiny(*settings)).last_round() == 1
    append(place / "clips", [table[40:]])
    capsys.readouterr()
    run = pretrain(tiny(*settings, "rounds=2"))
    assert run.last_round() == 2
    assert "there are 8 more clips than" in capsys.readouterr().out
    for number, name in ((1, "audio"), (2, "audio"), (2, "video")):  # what is learned, and the last
        assert (read_labels(run.round(number).clusters(name), 48) >= 0).all()
    for number, clips in ((1, 40), (2, 48)):
        learned = run.round(number).metrics.read_json()["updates"]
        assert [update["labelled"] for update in learned] == [clips, clips]
    assert [unsound(run, number) for number in range(3)] == [None, None, None]
    # Round 0 was clustered before they came.
    assert (read_labels(run.round(0).clusters("audio"), 48)[40:] == -1).all()
    report = evaluate_rounds(run, [0, 1, 2], "test")
    assert {row["round"] for row in report["results"]} == {0, 1, 2}


@pytest.mark.chaos
def test_media_that_are_replaced_between_rounds_are_told(
    new_run: Callable[[], Location], tmp_path: Path
) -> None:
    """What was indexed is not what lies there now: neither labelled nor learned from then on."""
    place, own = new_run(), tmp_path / "own.mp4"
    table = (place / "clips" / "part-000000.parquet").read_table()
    uris = table["uri"].to_pylist()
    shutil.copy(uris[5], own)
    uris[5] = str(own)
    rewrite_clips(place, table.set_column(table.schema.get_field_index("uri"), "uri", [uris]))
    run = pretrain(tiny(f"run={place}"))
    assert (read_labels(run.round(1).clusters("video"), 48) >= 0).all()
    own.write_bytes(own.read_bytes() + b"more")
    run = pretrain(tiny(f"run={place}", "rounds=2"))
    labels = read_labels(run.round(2).clusters("video"), 48)
    assert [*np.flatnonzero(labels < 0)] == [5]
    rejects = [row for f in run.round(2).rejects.files() for row in f.read_table().to_pylist()]
    embedded = [row for row in rejects if row["stage"] == "embed"]
    assert {(row["uri"], row["reason"]) for row in embedded} == {(str(own), "changed")}


def test_what_nothing_durable_depends_on_may_change(
    new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    place = new_run()
    begun = tiny(f"run={place}", "clustering.k=40", "learning.lr=9")
    pretraining = Pretraining.opened(begun, METHODS["xdc"])
    pretraining.begin()
    pretraining.events.close()
    with pytest.raises(UserError, match=r"clips\.video\.frames: 4 → 5"):
        Run.open(tiny(f"run={place}", "clips.video.frames=5"))
    changed = Run.open(tiny(f"run={place}", "clustering.k=4", "learning.lr=0.001"))
    told = capsys.readouterr().out
    assert "from here on: clustering.k: 40 → 4, learning.lr: 9.0 → 0.001" in told
    assert Run.existing(str(place)).config == changed.config
    (changed.round(0).clusters("audio") / "_DONE").write_text("")
    with pytest.raises(UserError, match=r"clustering\.k: 4 → 5"):
        Run.open(tiny(f"run={place}", "clustering.k=5", "learning.lr=0.001"))
    lower = Run.open(tiny(f"run={place}", "clustering.k=4", "learning.lr=0.0001"))
    assert lower.saved() == lower.config


def test_a_second_driver_gets_one_line(new_run: Callable[[], Location]) -> None:
    place = new_run()
    arguments = [sys.executable, "-c", HOLDS, f"{place}/_LEASE", "2"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            with pytest.raises(
                UserError, match=rf"process {first.pid} .* works on the run"
            ) as told:
                pretrain(tiny(f"run={place}"))
            assert "\n" not in str(told.value)
        finally:
            first.kill()
    assert not (place / "config.yaml").exists()


@pytest.mark.chaos
def test_twenty_kills_of_the_cluster_index_in_one_job(new_run: Callable[[], Location]) -> None:
    """While it clusters, and while others learn from the labels that it served."""
    settings = ["learning.threads=1", "learning.epochs=4", "rounds=4", "clustering.block_size=16"]
    calm, place = new_run("calm"), new_run("killed")
    pretrain(tiny(f"run={calm}", *settings))
    draw, killed, over = random.Random(0), set(), threading.Event()

    def keep_killing() -> None:
        while len(killed) < 20 and not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    title = " ".join(process.cmdline())
                    if title.startswith("ray::Index") and process.pid not in killed:
                        time.sleep(draw.uniform(0, 0.5))
                        process.kill()
                        killed.add(process.pid)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        pretrain(tiny(f"run={place}", *settings))
    finally:
        over.set()
        killer.join()
    assert len(killed) == 20
    assert results(place) == results(calm)
    assert np.all([read_labels(place / "rounds/0004/clusters" / m, 48) >= 0 for m in ("video",)])
