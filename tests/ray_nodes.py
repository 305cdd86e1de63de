"""Nodes of a cluster as processes of their own, as `ray start` makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import free_port

RAY = str(Path(sys.executable).parent / "ray")


@contextmanager
def node(*arguments: str, inside: tuple[str, ...] = (), **environment: str) -> Iterator[None]:
    """A node started by the command `inside`; whoever needs it waits for it."""
    own = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    size = ("--num-cpus=1", "--object-store-memory=80000000")
    agent = f"--dashboard-agent-listen-port={free_port()}"
    process = subprocess.Popen(
        [*inside, RAY, "start", "--block", *size, agent, *arguments],
        env={**own, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # Not SIGTERM, after which Ray drains a node for half a minute.
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait()
