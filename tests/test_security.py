"""Who gets in: shipped cluster files ask for a token, and a head with one keeps others out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.conftest import free_port, wait_for_port
from tests.ray_nodes import RAY, node

ROOT = Path(__file__).resolve().parents[1]
MAIN = """
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect, run_job
run_job(lambda arguments: (connect(ResourcesConfig()), print("joined")))
"""


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-gcp.yaml"])
def test_every_ray_start_of_a_shipped_file_asks_for_a_token(name: str) -> None:
    cluster = yaml.safe_load((ROOT / name).read_text())
    head, worker = cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]
    starts = [command for command in head + worker if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in " ".join(head)
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]


def test_kubernetes_asks_for_a_token_and_offers_no_port_outside() -> None:
    job = yaml.safe_load((ROOT / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


@pytest.mark.cluster
def test_a_head_with_a_token_lets_in_only_who_has_it(tmp_path: Path) -> None:
    port, dashboard = free_port(), free_port()
    temp = Path(f"/tmp/xdc-{port}")  # Ray's sockets need a short path
    secret = "0123456789abcdef" * 4
    none = {k: v for k, v in os.environ.items() if not k.startswith("RAY_A")}
    none |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}  # where no token lies
    wrong, right = ({**none, "RAY_AUTH_TOKEN": t} for t in ("f" * 64, secret))
    off = {**none, "RAY_AUTH_MODE": "disabled"}
    address = f"http://127.0.0.1:{dashboard}"

    def jobs_api(**headers: str) -> int:
        request = urllib.request.Request(f"{address}/api/jobs/", headers=headers)
        try:
            return int(urllib.request.urlopen(request, timeout=30).status)
        except urllib.error.HTTPError as error:
            return error.code

    def submit(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", address, "--", "touch", str(tmp_path / "ran")]
        given = {"capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(command, env=environment, cwd=tmp_path, **given)

    def join(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        own = {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
        given = {"capture_output": True, "text": True, "timeout": 120}
        return subprocess.run([sys.executable, "-c", MAIN], env=own, **given)

    arguments = ("--head", f"--port={port}", f"--temp-dir={temp}", "--dashboard-host=127.0.0.1")
    asks = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secret}
    try:
        with node(*arguments, f"--dashboard-port={dashboard}", **asks):
            wait_for_port(dashboard)
            assert jobs_api() == 401
            assert jobs_api(Authorization=f"Bearer {'f' * 64}") == 403
            assert jobs_api(Authorization=f"Bearer {secret}") == 200
            for environment in (none, wrong, off):
                assert submit(environment).returncode != 0
                refused = join(environment)
                assert refused.returncode == 2, refused.stderr
                assert refused.stderr.splitlines()[-1].startswith("error: the Ray cluster at")
            assert not (tmp_path / "ran").exists()
            end = time.monotonic() + 120
            while submit(right).returncode:  # its agent can take jobs a little later
                assert time.monotonic() < end
            assert (tmp_path / "ran").exists()
            assert join(right).stdout == "joined\n"
    finally:
        shutil.rmtree(temp, ignore_errors=True)
