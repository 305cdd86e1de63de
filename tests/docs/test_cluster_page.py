"""docs/cluster.md: its commands by the programs and files that they name."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts import scripts

from pipeline import settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cluster.md"
BLOCKS = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMANDS = [
    command.strip(" ()&")
    for block in BLOCKS
    for line in block.splitlines()
    for command in line.split(" && ")
]


def commands(program: str) -> list[list[str]]:
    return [words for line in COMMANDS if (words := shlex.split(line))[0] == program]


def test_each_cluster_takes_three_commands() -> None:
    once, *clusters = (block.strip().splitlines() for block in BLOCKS)
    assert len(once) == 2
    assert [len(lines) for lines in clusters] == [3, 3, 3]


def test_ray_knows_its_commands() -> None:
    assert len(commands("ray")) == 5
    for _, name, *words in commands("ray"):
        known = {option for p in scripts.cli.commands[name].params for option in p.opts}
        assert {word for word in words if word.startswith("-")} <= known
        assert all((ROOT / word).is_file() for word in words if not word.startswith("-"))


@pytest.mark.parametrize("words", commands("make"))
def test_make_submits_with_what_ray_knows(words: list[str]) -> None:
    dry = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    (line,) = [line for line in dry.stdout.splitlines() if " job submit " in line]
    ours, theirs = line.split(" -- ")
    known = {option for p in job_cli_group.commands["submit"].params for option in p.opts}
    assert {word for word in shlex.split(ours) if word.startswith("--")} <= known
    assert "RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}" in ours
    python, script, *overrides = shlex.split(theirs)
    assert python == "python"
    assert (ROOT / script).is_file()
    assert settings.load(overrides).learning.workers == 4


def test_every_file_its_commands_name_is_there() -> None:
    named = set(re.findall(r"[\w./-]+\.ya?ml\b", " ".join(COMMANDS)))
    assert {"kuberay.yaml", "cluster.yaml", "cluster-gcp.yaml", "cluster-aws-roles.yaml"} == named
    assert all((ROOT / file).is_file() for file in named)


def test_the_placeholders_it_replaces_are_in_the_files() -> None:
    assert "YOUR_PROJECT" in (ROOT / "cluster-gcp.yaml").read_text()
    for file in ("cluster.yaml", "cluster-gcp.yaml", "kuberay.yaml"):
        assert "YOUR_REGISTRY/xdc-ray" in (ROOT / file).read_text()
    assert "YOUR_BUCKET" in (ROOT / "kuberay.yaml").read_text()
