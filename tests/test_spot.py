from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import time
from typing import Literal

import pytest

from pipeline import spot
from pipeline.errors import UserError
from tests.conftest import free_port
from tests.metadata_server import metadata_server

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
        spot.find_cloud(f"http://127.0.0.1:{free_port()}")


@pytest.mark.cluster
@pytest.mark.parametrize("cloud", ["aws", "gcp", None])
def test_ray_drains_the_node(cloud: Cloud | None) -> None:
    """The watcher as the nodes start it, against a node of a real Ray cluster."""
    import ray
    from ray._private.state import state
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    worker = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address)
        cluster.wait_for_nodes()
        assert state.get_draining_nodes() == {}
        with metadata_server(cloud or "aws") as server:
            watcher = subprocess.Popen(
                [sys.executable, "-m", "pipeline.spot", "--address", cluster.address]
                + ["--node-id", worker.node_id]
                + (["--metadata", server.url] if cloud else ["--leaving-in", "10"]),
                env={**os.environ, "RAY_AUTH_MODE": "disabled"},
                stdout=subprocess.PIPE,
                text=True,
            )
            if cloud:
                time.sleep(5)
                assert watcher.poll() is None, "it waits for the notice"
                assert state.get_draining_nodes() == {}
                server.notice = in_a_minute()
            said, _ = watcher.communicate(timeout=90)
        assert watcher.returncode == 0
        assert said.startswith("draining")
        (node, deadline_ms) = next(iter(state.get_draining_nodes().items()))
        assert node == worker.node_id
        assert deadline_ms / 1000 - time.time() < 60
    finally:
        ray.shutdown()
        cluster.shutdown()
