"""The image: what its recipe names is there, and a linter that knows Dockerfiles agrees."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_linter_agrees() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    ended = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_everything_that_is_copied_is_there() -> None:
    copied = re.findall(r"^COPY (?:--\S+ )*(.+)$", RECIPE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()[:-1]]
    assert len(sources) >= 4
    assert all((ROOT / source).exists() for source in sources)


def test_the_extras_exist_and_bring_faiss_for_the_gpu() -> None:
    (wanted,) = re.findall(r"--editable \"\.\[(.+)\]\"", RECIPE)
    extras = PROJECT["optional-dependencies"]
    assert set(wanted.split(",")) <= set(extras)
    brought = [package for extra in wanted.split(",") for package in extras[extra]]
    assert any(package.startswith("faiss-gpu") for package in brought)


def test_it_is_the_ray_of_the_project() -> None:
    (ray,) = re.findall(r"^FROM rayproject/ray:([\d.]+)-py311", RECIPE, re.MULTILINE)
    assert ray == version("ray")
    (pinned,) = (name for name in PROJECT["dependencies"] if name.startswith("ray["))
    assert pinned.endswith(f"=={ray.rpartition('.')[0]}.*")


def test_nothing_large_is_sent_to_the_builder() -> None:
    """Every folder that git does not keep stays out of the image."""
    ignored = {line.strip("*/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for line in (ROOT / ".gitignore").read_text().splitlines():
        kept_out = line.strip("*/")
        assert kept_out in ignored or re.fullmatch(r"\.\w+_cache|\.hypothesis", kept_out), line
    assert ".git" in ignored
