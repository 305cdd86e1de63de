"""Whole runs of the small world, and what they leave."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ray

from pipeline.rounds import pretrain
from pipeline.storage import Location
from tests.conftest import copy_clips, tiny

ROOT = Path(__file__).resolve().parents[1]
# Learning lasts long enough for a look at its progress to fall into it.
CALM = ["learning.threads=1", "learning.epochs=5"]


@dataclass(frozen=True)
class Calm:
    """Two rounds of XDC by one worker, made in two goes, undisturbed."""

    place: Location
    first: bytes  # the encoders of round 1 when it was the last


def calm_run(indexed: Location, place: Location) -> Calm:
    copy_clips(indexed, place)
    first = pretrain(tiny(f"run={place}", *CALM)).encoders.read_bytes()
    assert pretrain(tiny(f"run={place}", *CALM, "rounds=2")).last_round() == 2
    return Calm(place, first)


def results(run: Location) -> dict[str, str]:
    """Digests of the encoders, heads, centroids and pseudo-labels of a run, by path in rounds/."""
    rounds = Path(str(run / "rounds"))
    kept = [*rounds.rglob("*.safetensors"), *rounds.rglob("*.np[yz]"), *rounds.rglob("labels/*")]
    return {
        str(path.relative_to(rounds)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept)
    }


def run_job(config: list[str], until: str | None) -> int | None:
    """Run jobs/pretrain.py on the tests' Ray; with `until`, kill -9 it once it printed that."""
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
    job = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *config],
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
