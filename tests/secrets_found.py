"""Looks for this process's S3 credentials in everything that a run has left behind."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import ray

from pipeline.storage import Location

SECRETS = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]


def found_secrets(run: Location, printed: str) -> list[str]:
    """Where credentials lie: in the run's files, in what was printed, in the logs of this Ray."""
    return [
        name
        for name, data in (*_run(run), *_logs(), ("printed", printed.encode()))
        if any(secret.encode() in data for secret in SECRETS)
    ]


def _run(run: Location) -> Iterator[tuple[str, bytes]]:
    start = len(run.path) + 1
    for info in run.children(recursive=True):
        if info.is_file:
            place = run / info.path[start:]
            data = place.read_bytes()
            if place.name.endswith(".parquet"):  # compressed, and perhaps with a line after it
                table = data.rpartition(b"\n#")[0] if "/_written/" in place.uri else data
                data += str(pq.read_table(io.BytesIO(table)).to_pylist()).encode()
            yield str(place), data


def _logs() -> Iterator[tuple[str, bytes]]:
    (node,) = ray.nodes()
    logs = Path(node["ObjectStoreSocketName"]).parents[1] / "logs"
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert files, f"Ray has no logs in {logs}"
    for file in files:
        yield str(file), file.read_bytes()
