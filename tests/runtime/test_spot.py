from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import time
from typing import Literal

import pytest

from pipeline.errors import UserError
from pipeline.runtime import spot
from tests.conftest import free_port
from tests.runtime.metadata_server import metadata_server

Cloud = Literal["aws", "gcp"]


def in_a_minute() -> str:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("cloud", "ask"), [("aws", spot.aws_notice), ("gcp", spot.gcp_notice)])
def test_the_cloud_is_found_and_its_notice_is_read(cloud: Cloud, ask: spot.Ask) -> None:
    with metadata_server(cloud) as server:
        assert spot.find_cloud(server.url) is ask
        assert ask(server.url) is None
        server.notice = in_a_minute()
        notice = ask(server.url)
    assert notice is not None
    assert 28 <= notice.seconds <= 60
    assert {"aws": "AWS will terminate it at 20", "gcp": "Google Cloud"}[cloud] in notice.message


def test_a_time_that_has_passed_leaves_no_time() -> None:
    with metadata_server("aws") as server:
        server.notice = "2020-01-01T00:00:00Z"
        notice = spot.aws_notice(server.url)
    assert notice is not None
    assert notice.seconds == 0


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with metadata_server("gcp") as server:
        assert spot.gcp_notice(server.url) is None


def test_a_service_that_fails_for_a_while_is_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with metadata_server("gcp") as server:
        server.broken = 3
        threading.Timer(0.3, setattr, (server, "notice", "now")).start()
        notice = spot.wait_for_notice(spot.gcp_notice, server.url, every_s=0.02)
    assert notice.message == "Google Cloud preempts it"
    assert capsys.readouterr().err.count("no answer from") == 1


def test_a_machine_of_no_cloud_is_told_so() -> None:
    with pytest.raises(UserError, match="no metadata service"):
        spot.find_cloud(f"http://127.0.0.1:{free_port()}", patience_s=0)


@pytest.mark.cluster
def test_ray_drains_the_node() -> None:
    """The watcher as nodes start it, against nodes of a real Ray cluster: drained they take
    nothing more, and what runs on them goes on."""
    import ray
    from ray._private.state import state
    from ray.cluster_utils import Cluster

    @ray.remote(num_cpus=1)
    class Busy:
        def where(self) -> str:
            return ray.get_runtime_context().get_node_id()

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        ray.init(address=cluster.address)
        for cloud in ("aws", "gcp", None):
            worker = cluster.add_node(num_cpus=2)
            busy = Busy.remote()
            assert ray.get(busy.where.remote()) == worker.node_id
            with metadata_server(cloud or "aws") as server:
                watcher = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.runtime.spot", "--address", cluster.address]
                    + ["--node-id", worker.node_id]
                    + (["--metadata", server.url] if cloud else ["--leaving-in", "15"]),
                    env={**os.environ, "RAY_AUTH_MODE": "disabled"},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                if cloud:
                    time.sleep(3)
                    assert watcher.poll() is None, "it waits for the notice"
                    server.notice = in_a_minute()
                assert watcher.stdout is not None
                assert watcher.stdout.readline().startswith("draining")
            deadline_s = state.get_draining_nodes()[worker.node_id] / 1000
            assert 0 < deadline_s - time.time() < 60
            assert ray.get(busy.where.remote()) == worker.node_id
            assert watcher.wait(timeout=60) == 0
        with pytest.raises(ray.exceptions.GetTimeoutError):
            ray.get(Busy.remote().where.remote(), timeout=3)
    finally:
        ray.shutdown()
        cluster.shutdown()
