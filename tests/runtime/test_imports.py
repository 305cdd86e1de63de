"""What a process imports as it starts: a second of a core each, of hundreds of processes a run."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "too_heavy"),
    [
        ("pipeline.clustering.index", "ray.data ray.train pandas torch"),
        ("pipeline.telemetry.progress", "ray.data ray.train pandas torch"),
        ("pipeline.learning.schedule", "ray.data ray.train pandas torch"),
        ("pipeline.clips.stream", "ray.train torch"),
        ("pipeline.clips.decoding.child", "ray pandas torch"),
    ],
)
def test_actors_tasks_and_children_import_no_more_than_they_need(
    module: str, too_heavy: str
) -> None:
    code = f"import sys, {module}; print(*sys.modules.keys() & {set(too_heavy.split())})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, ""), ended.stderr
