"""Tell Ray that the cloud takes this node back: ``python -m pipeline.runtime.spot``, one a worker.

A spot node is told of its end by the cloud's metadata service, two minutes ahead on AWS and half
a minute on Google Cloud, and Ray does not ask there. This watcher does: when the notice comes it
drains the node, so that nothing new starts on it and training writes a checkpoint at once.

On Kubernetes the kubelet is told, and a pod's ``preStop`` calls ``--leaving-in SECONDS``.
It imports neither Ray nor torch: it is there as long as the node.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

METADATA = "http://169.254.169.254"  # link-local, the same on both clouds
_LOOK_EVERY_S = 2.0
_GCP_NOTICE_S = 30  # Google says that a node goes, not when; it is this long after

# Not through a proxy that the environment names: it is somewhere else.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Notice:
    """This node ends in so many seconds."""

    seconds: int
    message: str


def aws_notice(metadata: str) -> Notice | None:
    """What EC2's instance metadata says, version 2: it is asked with a session token.

    Raises:
        OSError: it does not answer, or is no such service.
    """
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = {"X-aws-ec2-metadata-token": _ask(f"{metadata}/latest/api/token", ttl, "PUT")}
    try:
        said = json.loads(_ask(f"{metadata}/latest/meta-data/spot/instance-action", token))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    left = datetime.datetime.fromisoformat(said["time"]) - datetime.datetime.now(datetime.UTC)
    seconds = max(0, math.floor(left.total_seconds()))
    return Notice(seconds, f"AWS will {said['action']} it at {said['time']}")


def gcp_notice(metadata: str) -> Notice | None:
    """What Compute Engine's metadata server says.

    Raises:
        OSError: it does not answer, or is no such service.
    """
    url = f"{metadata}/computeMetadata/v1/instance/preempted"
    preempted = _ask(url, {"Metadata-Flavor": "Google"}) == "TRUE"
    return Notice(_GCP_NOTICE_S, "Google Cloud preempts it") if preempted else None


Ask = Callable[[str], Notice | None]


def find_cloud(metadata: str, patience_s: float = 60.0) -> Ask:
    """The way to ask whichever cloud's metadata service is there.

    Raises:
        UserError: none is, for so long.
    """
    end = time.monotonic() + patience_s
    while True:
        for ask in (aws_notice, gcp_notice):
            with contextlib.suppress(OSError):
                ask(metadata)
                return ask
        if time.monotonic() >= end:
            raise UserError(
                f"no metadata service of AWS or Google Cloud answers at {metadata}; on other "
                "machines call --leaving-in SECONDS when one is about to go"
            )
        time.sleep(_LOOK_EVERY_S)


def wait_for_notice(ask: Ask, metadata: str, every_s: float = _LOOK_EVERY_S) -> Notice:
    """Ask until the notice is there; a service that fails for a while is asked again."""
    failure = ""
    while True:
        try:
            if notice := ask(metadata):
                return notice
            failure = ""
        except (OSError, ValueError, KeyError) as error:
            if str(error) != failure:
                failure = str(error)
                print(f"no answer from {metadata}: {failure}", file=sys.stderr, flush=True)
        time.sleep(every_s)


def drain(notice: Notice, address: str | None = None, node_id: str | None = None) -> None:
    """Have Ray drain a node, this one by default; tried again while there is time.

    Raises:
        UserError: Ray did not drain it in time.
    """
    end = time.monotonic() + notice.seconds
    while True:
        left = max(0, math.floor(end - time.monotonic()))
        command = [str(Path(sys.executable).parent / "ray"), "drain-node"]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.message]
        command += ["--deadline-remaining-seconds", str(left)]
        command += ["--address", address] if address else []
        command += ["--node-id", node_id] if node_id else []
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode == 0:
            print(f"draining, {left} s left: {notice.message}", flush=True)
            return
        if time.monotonic() >= end:
            lines = ended.stderr.strip().splitlines() or ["no reason given"]
            raise UserError(f"Ray did not drain the node: {lines[-1]}")
        time.sleep(1)


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with _OPENER.open(request, timeout=2.0) as answer:
        return str(answer.read().decode().strip())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.runtime.spot", description=__doc__)
    parser.add_argument("--leaving-in", type=int, metavar="SECONDS", help="drain now, then wait")
    parser.add_argument("--metadata", default=METADATA, help="where the metadata service is")
    parser.add_argument("--address", help="of the Ray cluster; this machine's by default")
    parser.add_argument("--node-id", help="the node to drain; this machine's by default")
    options = parser.parse_args(arguments)
    node = (options.address, options.node_id)
    if options.leaving_in is None:
        drain(wait_for_notice(find_cloud(options.metadata), options.metadata), *node)
        return
    end = time.monotonic() + options.leaving_in
    drain(Notice(options.leaving_in, "its pod ends"), *node)
    time.sleep(max(0.0, end - time.monotonic()))  # the node works on while this waits


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
