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
import pytest
import ray
from mixture_factory import files, mixture

from pipeline.clustering import cluster
from pipeline.config import ClusteringConfig
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


def disturbed(
    features: list[Location], num_clips: int, out: Location, seed: int, lasts_s: float
) -> list[str]:
    """Cluster while actors are killed at random times; who was killed, at what."""
    draw = random.Random(seed)
    over = threading.Event()
    killed: list[str] = []

    def kill() -> None:
        for _ in range(draw.randint(1, 3)):
            if over.wait(draw.uniform(0, lasts_s)):
                return
            victims = actors_of_this_ray()
            if victims:
                victim = draw.choice(victims)
                try:
                    killed.append(" ".join(victim.cmdline()))
                    os.kill(victim.pid, signal.SIGKILL)
                except (psutil.NoSuchProcess, ProcessLookupError):
                    killed.pop()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        clustering = cluster(
            features, num_clips=num_clips, clips=None, config=CONFIG, seed=0, out=out
        )
        over.set()
        killer.join()
        labels = ray.get(clustering.republish()[0])
        assert (labels >= 0).all()
        clustering.close()
    finally:
        over.set()
        killer.join()
    return killed


def chaos(write_features: Writer, tmp_path: Path, runs: int) -> None:
    features = [write_features(mixture(12_000, 32, 30, spread=1.5), parts=4)]
    calm = Location.of(tmp_path / "calm")
    began = time.monotonic()
    cluster(features, num_clips=12_000, clips=None, config=CONFIG, seed=0, out=calm).close()
    lasts = time.monotonic() - began
    expected = files(calm)
    assert len(np.unique((calm / "labels").read_table()["label"].to_numpy())) == 40
    killed = []
    for run in range(runs):
        out = Location.of(tmp_path / f"run{run}")
        killed += disturbed(features, 12_000, out, run, lasts)
        assert files(out) == expected, f"run {run}"
    print(f"{runs} runs, killed: {killed}")
    assert killed


def test_killed_actors_leave_the_same_bytes(write_features: Writer, tmp_path: Path) -> None:
    chaos(write_features, tmp_path, runs=3)


@pytest.mark.cluster
def test_twenty_runs_with_killed_actors(write_features: Writer, tmp_path: Path) -> None:
    chaos(write_features, tmp_path, runs=20)
