"""A report that is served while its run goes on."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jobs.report import main as report
from pipeline.errors import UserError
from tests.conftest import ROOT, free_port, s3_uri
from tests.whole_runs import Calm


def until(url: str, text: str, seconds: float = 240.0) -> str:
    """What lies there once it holds the text."""
    end, found = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            found = urllib.request.urlopen(url, timeout=10).read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            found = str(error)
        if text in found:
            return found
        time.sleep(0.5)
    pytest.fail(f"{url} never held {text!r}; at last {found[:300]!r}")


def test_it_is_made_anew_when_the_run_has_gone_on(calm: Calm, tmp_path: Path) -> None:
    """A copy of a run whose second round is put back after the first look."""
    run, kept = tmp_path / "run", tmp_path / "kept"
    shutil.copytree(str(calm.place), run)
    shutil.move(run / "rounds" / "0002", kept)
    (run / "LATEST").write_text("1\n")
    port = free_port()
    arguments = [str(run), str(tmp_path / "out"), "--no-media", "--serve", str(port)]
    job = subprocess.Popen([sys.executable, str(ROOT / "jobs" / "report.py"), *arguments], cwd=ROOT)
    try:
        data = f"http://127.0.0.1:{port}/data/report.js"
        assert '"live":false' in until(data, '"rounds_done":1,'), "nothing works on it"
        shutil.move(kept, run / "rounds" / "0002")
        until(data, '"rounds_done":2,')
        until(f"http://127.0.0.1:{port}/", "</html>")
        job.terminate()
        assert job.wait(60) == 128 + signal.SIGTERM
    finally:
        job.kill()
        job.wait()


def test_a_port_that_is_taken_and_a_folder_elsewhere(calm: Calm, s3: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            report([str(calm.place), str(tmp_path / "out"), "--serve", port])
    with pytest.raises(UserError, match="--serve needs a folder on this machine"):
        report([str(calm.place), s3_uri("media/report", s3), "--serve"])
