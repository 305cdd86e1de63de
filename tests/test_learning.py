"""Training that dies goes on from its checkpoint, and is the same with fewer workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray

from pipeline import encoders, methods
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.learning import learn
from pipeline.storage import Location
from pipeline.training_state import Checkpoints, TrainingState
from tests.conftest import tiny

METHOD = methods.get("xdc")
SETTINGS = ["learning.epoch_clips=240", "learning.epochs=2", "learning.heldout=0.2"]


def trained(run: Location, name: str, *overrides: str) -> tuple[Location, dict[str, Any]]:
    config = tiny(*SETTINGS, *overrides)
    weights = run / "encoders.safetensors"
    encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
    clips = ClipTable.open(run / "clips")
    labels = (np.arange(len(clips)) % 4).astype(np.int32)
    update, out = METHOD.updates[0], run / name
    published = {clustering: ([ray.put(labels)], 4) for clustering in update.clusterings}
    where = (weights, out, out / "rejects")
    metrics = learn(
        clips, clips.publish(), METHOD, update, published, *where, config, (0, 1, 0), name
    )
    return out, metrics


def curve(out: Location) -> pa.Table:
    return (out / "curve.parquet").read_table()


def kill_the_worker_after_a_checkpoint(out: Location, killed: list[int]) -> None:
    while not (out / "checkpoint.pt").exists():
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)


def test_a_killed_worker_leaves_the_same_losses_step_by_step(
    new_run: Callable[[], Location],
) -> None:
    run = new_run()
    stale = Checkpoints(run / "calm")  # of other data: nothing goes on from it
    stale.save(TrainingState("another schedule", slot=22))
    stale.finish()
    calm, expected = trained(run, "calm", "learning.checkpoint_minutes=0")
    assert not (calm / "checkpoint.pt").exists()
    killed: list[int] = []
    out = run / "killed"
    killer = threading.Thread(target=kill_the_worker_after_a_checkpoint, args=(out, killed))
    killer.start()
    _, found = trained(run, "killed", "learning.checkpoint_minutes=1e-9")
    killer.join()
    assert killed
    assert found["resumed_at"] >= 20
    assert expected["resumed_at"] == 0
    assert len(curve(out)) == 60
    assert curve(out).equals(curve(calm))
    assert found["epochs"] == expected["epochs"]
    for name in ("encoders.safetensors", "heads.safetensors"):
        assert (out / name).read_bytes() == (calm / name).read_bytes()
    assert not (out / "checkpoint.pt").exists(), "it has served"


def test_with_a_worker_missing_the_steps_stay_the_same(new_run: Callable[[], Location]) -> None:
    """Two of two workers, and one that takes the batches of both."""
    run = new_run()
    # One step an epoch, by SGD and with one thread each: what rounding adds stays small.
    two = ["learning.workers=2", "learning.epoch_clips=16", "learning.optimizer=sgd"]
    two += [
        "learning.lr=0.02",
        "learning.warmup=0",
        "learning.schedule=constant",
        "learning.threads=1",
    ]
    _, together = trained(run, "two", *two)
    # More cores than there are for two workers.
    alone = [*two, "learning.min_workers=1", "learning.cpus_per_worker=3.2"]
    _, single = trained(run, "one", *alone)
    assert (together["workers"], single["workers"]) == (2, 1)
    assert together["clips"] == single["clips"] == 32
    for ours, theirs in zip(single["epochs"], together["epochs"]):
        for name in ("loss_video_audio", "loss_audio_video"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name
    assert together["epochs"][1]["loss_audio_video"] != together["epochs"][0]["loss_audio_video"]


def test_what_needs_gpus_is_refused(new_run: Callable[[], Location]) -> None:
    with pytest.raises(UserError, match="sync_batchnorm needs GPUs"):
        trained(new_run(), "synced", "learning.sync_batchnorm=true")
