"""Training that dies goes on from its checkpoint, and is the same with fewer workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from pipeline import encoders, methods
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.learning.group import TrainingGroup
from pipeline.learning.learn import learn
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.runtime.placement import KEEPS_MEMORY
from pipeline.storage import Location
from tests.conftest import tiny

METHOD = methods.get("xdc")
SETTINGS = ["learning.epoch_clips=240", "learning.epochs=2", "learning.held_out=0.2"]


def trained(
    run: Location, name: str, *overrides: str, group: TrainingGroup | None = None
) -> tuple[Location, dict[str, Any]]:
    config = tiny(*SETTINGS, *overrides)
    weights = run / "encoders.safetensors"
    encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
    clips = ClipTable.open(run / "clips")
    labels = (np.arange(len(clips)) % 4).astype(np.int32)
    update, out = METHOD.updates[0], run / name
    metrics = learn(
        LearningTask(
            clips=clips.publish(),
            heads=update.heads,
            labels={name: PublishedLabels.of(labels, 4) for name in update.clusterings},
            weights=weights,
            out=out,
            rejects=out / "rejects",
            config=config,
            key=(0, 1, 0),
            title=name,
            needs_all_labels=METHOD.needs_all_labels(update),
            bank={modality: out / "features" / modality for modality in update.encoders},
        ),
        group,
    )
    return out, metrics


def curve(out: Location) -> pa.Table:
    return (out / "curve.parquet").read_table()


def banked(out: Location) -> dict[str, pa.Table]:
    """What training kept of both modalities, by clip."""
    found = {}
    for modality in ("video", "audio"):
        parts = (out / "features" / modality).files(".parquet")
        found[modality] = pa.concat_tables(p.read_table() for p in parts).sort_by("clip_index")
        clips = found[modality]["clip_index"].to_pylist()
        assert len(clips) == len(set(clips)), "a clip is kept once"
    return found


def kill_the_worker(out: Location, wait: float, killed: list[dict[str, str]]) -> None:
    """So many seconds after its first checkpoint; never, if there is none for two minutes.

    Args:
        killed: is given the environment of each one.
    """
    end = time.monotonic() + 120
    while not (out / "checkpoint.pt").exists():
        if time.monotonic() > end:
            return
        time.sleep(0.02)
    time.sleep(wait)
    for process in psutil.Process().children(recursive=True):
        if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
            killed.append(process.environ())
            os.kill(process.pid, signal.SIGKILL)


def test_a_killed_worker_leaves_the_same_losses_step_by_step(
    new_run: Callable[[], Location],
) -> None:
    run = new_run()
    stale = Checkpoints(run / "calm")  # of other data: nothing goes on from it
    stale.save(TrainingState("another schedule", slot=22))
    stale.finish()
    calm, expected = trained(run, "calm", "learning.checkpoint_minutes=0")
    assert not (calm / "checkpoint.pt").exists()
    killed: list[dict[str, str]] = []
    out = run / "killed"
    killer = threading.Thread(target=kill_the_worker, args=(out, 0, killed))
    killer.start()
    # Kept features go into many files, of which some are written after the last checkpoint.
    small = "embedding.max_rows_per_file=4"
    _, found = trained(run, "killed", "learning.checkpoint_minutes=1e-9", small)
    killer.join()
    assert killed[0].items() >= KEEPS_MEMORY.items()
    assert found["resumed_at"] >= 20
    assert expected["resumed_at"] == 0
    assert len(curve(out)) == 60
    assert curve(out).equals(curve(calm))
    assert found["epochs"] == expected["epochs"]
    for name in ("encoders.safetensors", "heads.safetensors"):
        assert (out / name).read_bytes() == (calm / name).read_bytes()
    assert not (out / "checkpoint.pt").exists(), "it has served"
    ours, theirs = banked(out), banked(calm)
    for modality, table in theirs.items():
        assert len(table) == 48
        assert ours[modality].combine_chunks().equals(table.combine_chunks())


@pytest.mark.chaos
@pytest.mark.parametrize("deaths", [2, 1000])
def test_a_controller_that_dies_as_it_starts(
    deaths: int, new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver starts it again, and stops after four deaths in a row.

    One that is killed while Ray still creates it, Ray itself creates again.
    """
    run, killed = new_run(), set[int]()
    _, expected = trained(run, "calm")
    done = threading.Event()
    killer = threading.Thread(target=kill_controllers, args=(deaths, killed, done))
    killer.start()
    try:
        if deaths == 2:
            _, found = trained(run, "killed")
            assert found["epochs"] == expected["epochs"]
            for name in ("encoders.safetensors", "heads.safetensors"):
                assert (run / "killed" / name).read_bytes() == (run / "calm" / name).read_bytes()
        else:
            with pytest.raises(UserError, match="controller died 4 times in a row") as raised:
                trained(run, "killed")
            assert "\n" not in str(raised.value)
    finally:
        done.set()
        killer.join()
    told = capsys.readouterr().out.count("Ray Train's controller died")
    assert (1 <= told <= 2) if deaths == 2 else told == 3
    assert len(killed) >= told
    assert not (run / "killed" / "train").exists()


def kill_controllers(deaths: int, killed: set[int], done: threading.Event) -> None:
    """Kill so many controllers of Ray Train, each as soon as it runs."""
    while len(killed) < deaths and not done.wait(0.05):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                is_one = " ".join(process.cmdline()).startswith("ray::TrainController")
                if is_one and process.pid not in killed:
                    process.kill()
                    killed.add(process.pid)


@pytest.mark.cluster
def test_killed_at_any_of_ten_moments_it_ends_with_the_same_weights(
    new_run: Callable[[], Location],
) -> None:
    run = new_run()
    calm, _ = trained(run, "calm", "learning.checkpoint_minutes=0", "learning.epochs=4")
    random, resumed = np.random.default_rng(0), []
    for number in range(20):
        out, killed = run / f"killed-{number}", list[dict[str, str]]()
        wait = random.exponential(2.0)
        killer = threading.Thread(target=kill_the_worker, args=(out, wait, killed))
        killer.start()
        more = ["learning.checkpoint_minutes=1e-9", "learning.epochs=4"]
        _, found = trained(run, out.name, *more)
        killer.join()
        for name in ("encoders.safetensors", "heads.safetensors"):
            assert (out / name).read_bytes() == (calm / name).read_bytes()
        assert curve(out).equals(curve(calm))
        if killed:  # else it was faster
            resumed.append(found["resumed_at"])
        out.delete()
        if len(resumed) == 10:
            break
    assert len(resumed) == 10
    print(f"went on from steps {resumed} of 120")


@pytest.mark.chaos
def test_with_a_worker_missing_the_steps_stay_the_same(
    new_run: Callable[[], Location], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of three workers, and one that takes the batches of all; the first begins anew."""
    run = new_run()
    (run / "three" / "checkpoint.pt").write_bytes(b"damaged")
    # One step an epoch, by SGD and with one thread each: what rounding adds stays small.
    three = ["learning.workers=3", "learning.epoch_clips=24", "learning.optimizer=sgd"]
    three += [
        "learning.lr=0.02",
        "learning.warmup=0",
        "learning.schedule=constant",
        "learning.threads=1",
    ]
    several, together = trained(run, "three", *three, "learning.max_prefetch_mb=1")
    assert "three · begins anew: its checkpoint is damaged" in capsys.readouterr().out
    # More cores than there are for two workers.
    alone = [*three, "learning.min_workers=1", "learning.cpus_per_worker=3.2"]
    one, single = trained(run, "one", *alone)
    assert (together["workers"], single["workers"]) == (3, 1)
    assert together["clips"] == single["clips"] == 48
    ours, theirs = (banked(out)["video"]["clip_index"].to_pylist() for out in (several, one))
    assert ours == theirs
    for ours, theirs in zip(single["epochs"], together["epochs"]):
        for name in ("loss_video_audio", "loss_audio_video"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name
    assert together["epochs"][1]["loss_audio_video"] != together["epochs"][0]["loss_audio_video"]


def test_what_needs_gpus_is_refused(new_run: Callable[[], Location]) -> None:
    with pytest.raises(UserError, match="sync_batchnorm needs GPUs"):
        trained(new_run(), "synced", "learning.sync_batchnorm=true")
