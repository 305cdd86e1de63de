"""All jobs on files, classes and folders whose names are meant for shells, browsers, terminals."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    *("a\nerror: forged", "\x1b[31mred", "<script>alert(1)</script>", "-rf", "\u202eevil"),
    *("$(touch ran);`touch ran`", "..%2f..%2fetc%2fpasswd", "a'b\"c", "[bold]m[/bold]", "%s {x}"),
]
CLASSES = ["c\nerror: forged", "<script>alert(1)</script>", "$(touch ran)", "[bold]c\x1b[31m"]


def media(world: Path, folder: Path) -> Path:
    """The small world as ``folders:`` of hostile names, and one file that is no media."""
    with world.open() as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        place = folder / ("train" if number % 3 else "test") / CLASSES[int(row["label"][-1])]
        place.mkdir(parents=True, exist_ok=True)
        name = NAMES[number % len(NAMES)].replace("/", "_")
        shutil.copy(world.parent / row["uri"], place / f"{name}{number}.mp4")
    (place / "bad\nerror: forged\x1b[31m<b>.mp4").write_bytes(b"no media")
    return folder


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_hostile_names_are_only_names(world: Path, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
    listed, run = media(world, tmp_path / "m"), f"{tmp_path}/r<b>$(touch ran)"
    told = b""
    for name, *arguments in (
        ["index", str(listed), run, *TINY[:7]],
        ["pretrain", *TINY, f"run='{run}'"],
        ["evaluate", run, "--dataset", f"folders:{listed}"],
        ["export", run, f"{tmp_path}/o<b>\n$(touch ran)"],
    ):
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
        job = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert job.returncode == 0, job.stderr.decode()[-2000:]
        told += job.stdout + job.stderr
    assert b"1 rejected" in told
    assert b"\x1b" not in told
    assert b"\nerror:" not in told
    assert "\u202e".encode() not in told
    assert not list(tmp_path.rglob("ran"))
    for file in tmp_path.rglob("*.md"):
        assert "<script>" not in file.read_text()
        assert "<b>" not in file.read_text()
