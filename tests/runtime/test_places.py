"""Places that only the driver sees, or that pass with a job's code, are refused in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from pipeline.errors import UserError
from pipeline.runtime.places import _look, refuse_passing
from tests.conftest import free_port, wait_for_port
from tests.ray_nodes import node

MAIN = """
import sys
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect, run_job
run_job(lambda arguments: connect(ResourcesConfig(), *arguments))
"""
WITHOUT_CODE = """
import sys
class Missing:
    def find_spec(self, name, *_):
        if name == "pipeline":
            raise ModuleNotFoundError("No module named 'pipeline'")
sys.meta_path.insert(0, Missing())
"""


def test_a_relative_path_of_a_submitted_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/test_jobs.py submits one and shows that this is where Ray puts it."""
    copy = tmp_path / "session_x/runtime_resources/working_dir_files/_ray_pkg_0123"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    refuse_passing(["", "/data/run", "s3://bucket/run"])
    with pytest.raises(UserError, match="the path 'runs/a' is relative"):
        refuse_passing(["runs/a"])


def test_a_node_tells_what_it_sees(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    here = ray.get_runtime_context().get_node_id()
    marks = [str(tmp_path / "there"), str(tmp_path / "gone")]
    assert _look(marks, [here]) == {here: ("", marks[:1])}


@pytest.mark.cluster
def test_nodes_without_the_code_or_the_folder_are_named(tmp_path: Path) -> None:
    """One node in a mount namespace of its own, where the folder is another; one without code."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace")
    (tmp_path / "run").mkdir()
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind" / "sitecustomize.py").write_text(WITHOUT_CODE)
    port = free_port()
    address = f"127.0.0.1:{port}"
    temp = Path(f"/tmp/xdc-{port}")  # Ray's sockets need a short path

    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = {"env": environment, "capture_output": True, "text": True, "timeout": 60}
        return subprocess.run([sys.executable, "-c", *arguments], **given)

    def wait_for_nodes(number: int) -> None:
        wait = f"import ray, time\nray.init('{address}', log_to_driver=False)\n"
        wait += f"while sum(n['Alive'] for n in ray.nodes()) != {number}: time.sleep(0.2)\n"
        python(wait).check_returncode()

    try:
        with node("--head", f"--port={port}", f"--temp-dir={temp}", "--include-dashboard=false"):
            wait_for_port(port)
            mount = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            hidden = ("unshare", "-m", "sh", "-c", mount, str(tmp_path / "run"))
            with node(f"--address={address}", inside=hidden):
                wait_for_nodes(2)
                with node(f"--address={address}", PYTHONPATH=str(tmp_path / "blind")):
                    wait_for_nodes(3)
                    ended = python(MAIN, str(tmp_path / "run"))
                assert ended.returncode == 2
                assert "1 of 3 nodes lack this code" in ended.stderr
                assert "No module named 'pipeline'" in ended.stderr
                assert len(ended.stderr.splitlines()) == 1
                wait_for_nodes(2)
                ended = python(MAIN, str(tmp_path / "run"))
                assert ended.returncode == 2
                assert f"{tmp_path}/run is not the same folder on every node" in ended.stderr
                assert len(ended.stderr.splitlines()) == 1
        assert list((tmp_path / "run").iterdir()) == []
    finally:
        shutil.rmtree(temp, ignore_errors=True)
