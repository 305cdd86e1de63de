"""Actors are killed at random points; the files come out the same."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
from mixture_factory import files, mixture

from pipeline.clustering import ClusteringTask, KMeansProgress, cluster
from pipeline.config import ClusteringConfig, ResourcesConfig
from pipeline.storage import Location

pytestmark = pytest.mark.usefixtures("local_ray")
Writer = Callable[..., Location]
CONFIG = ClusteringConfig(
    k=40, iterations=14, pca_dim=24, init="kmeans++", shards=2, cpus_per_shard=0.5, block_size=1024
)


def actors_of_this_ray() -> list[psutil.Process]:
    """Processes of shard and index actors that descend from this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if title.startswith(("ray::Shard", "ray::Index")):
            found.append(process)
    return found


def disturbed(features: list[Location], num_clips: int, out: Location, seed: int) -> list[str]:
    """Cluster while actors are killed at random points; who was killed, at what.

    One to three times, after a random step of the clustering and a random moment more, so that a
    kill meets loading, seeding, an iteration or the labelling however fast the machine is.
    """
    draw = random.Random(seed)
    victims_after = sorted(draw.sample(range(CONFIG.iterations), draw.randint(1, 3)))
    killed: list[str] = []
    timers: list[threading.Timer] = []
    steps = [0]

    def kill() -> None:
        deadline = time.monotonic() + 60  # while Ray restarts the last victim there may be none
        while not (actors := actors_of_this_ray()) and time.monotonic() < deadline:
            time.sleep(0.01)
        victim = draw.choice(actors)
        killed.append(" ".join(victim.cmdline()).strip())
        os.kill(victim.pid, signal.SIGKILL)

    def after_step(_: KMeansProgress) -> None:
        if steps[0] in victims_after:
            timers.append(threading.Timer(draw.uniform(0, 0.1), kill))
            timers[-1].start()
        steps[0] += 1

    task = ClusteringTask(tuple(features), num_clips, None, CONFIG, 0, out)
    clustering = cluster(task, on_progress=after_step)
    for timer in timers:
        timer.join()
    labels = ray.get(clustering.labels[0])
    assert (labels >= 0).all()
    clustering.close()
    return killed


def chaos(write_features: Writer, tmp_path: Path, runs: int) -> None:
    features = [write_features(mixture(12_000, 32, 30, spread=1.5), parts=4)]
    calm = Location.of(tmp_path / "calm")
    cluster(ClusteringTask(tuple(features), 12_000, None, CONFIG, 0, calm)).close()
    expected = files(calm)
    assert len(np.unique(pq.read_table(f"{calm}/labels")["label"].to_numpy())) == 40
    killed = []
    for run in range(runs):
        out = Location.of(tmp_path / f"run{run}")
        victims = disturbed(features, 12_000, out, run)
        assert victims, f"run {run}"
        killed += victims
        assert files(out) == expected, f"run {run}"
    print(f"{runs} runs, killed: {killed}")


def test_killed_actors_leave_the_same_bytes(write_features: Writer, tmp_path: Path) -> None:
    chaos(write_features, tmp_path, runs=3)


@pytest.mark.chaos
def test_a_shard_that_hangs_is_restarted(
    write_features: Writer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ray sees deaths alone: a process that is stopped would be waited for for ever."""
    monkeypatch.setattr("pipeline.clustering.handle._LOOK_EVERY_S", 1.0)
    features = (write_features(mixture(12_000, 32, 30, spread=1.5), parts=4),)
    calm, hung = Location.of(tmp_path / "calm"), Location.of(tmp_path / "hung")
    cluster(ClusteringTask(features, 12_000, None, CONFIG, 0, calm)).close()
    stopped: list[int] = []

    def after_step(_: KMeansProgress) -> None:
        if not stopped:
            shards = [p for p in actors_of_this_ray() if "ray::Shard" in " ".join(p.cmdline())]
            stopped.append(shards[0].pid)
            os.kill(shards[0].pid, signal.SIGSTOP)

    limits = ResourcesConfig(stall_minutes=2 / 60, storage_patience_minutes=0)
    task = ClusteringTask(features, 12_000, None, CONFIG, 0, hung)
    cluster(task, resources=limits, on_progress=after_step).close()
    assert "k-means · no progress for" in capsys.readouterr().out
    assert files(hung) == files(calm)


@pytest.mark.cluster
def test_twenty_runs_with_killed_actors(write_features: Writer, tmp_path: Path) -> None:
    chaos(write_features, tmp_path, runs=20)
