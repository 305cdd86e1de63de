"""What a job ships, by Ray's own packing."""

from __future__ import annotations

import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private import ray_constants
from ray._private.runtime_env import packaging

from pipeline.errors import UserError
from pipeline.runtime import upload

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as it is after some use."""
    folder = tmp_path / "checkout"
    for name, size in {
        "jobs/pretrain.py": 100,
        "pipeline/run.py": 200,
        "mine.yaml": 10,
        "media/day/a.mp4": 5000,
        "media/day/a.csv": 50,
        "runs/a/clips/part.parquet": 7000,
        ".venv/lib/torch.so": 9000,
        ".git/objects/pack": 8000,
        "exported/video/model.safetensors": 6000,
        "frames/1.raw": 4000,
        "frames/2.raw": 4000,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    for name in (".gitignore", ".rayignore"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def test_it_says_what_ray_packs(checkout: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    excludes = ray_constants.get_runtime_env_default_excludes()
    packaging._zip_files(str(checkout), excludes, str(packed), True, logger=logging.getLogger())
    with zipfile.ZipFile(packed) as archive:
        really = {file.filename: file.file_size for file in archive.infolist() if not file.is_dir()}
    said = upload.shipped(checkout)
    assert said == really
    code = {"jobs/pretrain.py", "pipeline/run.py", "mine.yaml", ".gitignore", ".rayignore"}
    assert set(said) == code | {"media/day/a.csv", "frames/1.raw", "frames/2.raw"}


def test_what_is_too_large_is_named(checkout: Path) -> None:
    assert "ships 0.0 MiB in 8 files" in upload.check(checkout)
    with pytest.raises(UserError, match=r"frames/ 0\.0 MiB, .*name it in \.rayignore"):
        upload.check(checkout, limit=8000)
    (checkout / "frames" / "3.raw").write_bytes(b"x" * 20 * 2**20)
    assert "files: frames/ 20.0 MiB, " in upload.check(checkout)


def test_the_limit_is_rays() -> None:
    assert upload.LIMIT == 512 * 2**20


def test_this_checkout_ships_code_alone() -> None:
    files = upload.shipped(ROOT)
    folders = {Path(file).parts[0] for file in files if len(Path(file).parts) > 1}
    assert {"pipeline", "jobs", "configs"} <= folders
    assert not folders & {"tests", "benchmarks", "runs", ".git", ".venv"}
    assert sum(files.values()) < 2 * 2**20


def test_from_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.runtime.upload"]
    ended = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"error: {tmp_path / 'none'} is no folder\n"
