"""What every test may use: one local Ray, one small generated world, one S3 server on loopback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "120")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
# Of the S3 server below; Ray's workers and the decoding children inherit them.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "XDCTESTKEYID01234567",  # so that they are known again: secrets_found.py
    "AWS_SECRET_ACCESS_KEY": "XDCtestSecret0123456789abcdefghijklmnop",
    "AWS_DEFAULT_REGION": "us-east-1",
}

# Each process of pytest-xdist has a Ray of its own, which the others do not find.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["RAY_TMPDIR"] = f"{os.environ.get('RAY_TMPDIR', tempfile.gettempdir())}/xdc-{worker}"
    os.makedirs(os.environ["RAY_TMPDIR"], exist_ok=True)

import pyarrow as pa
import pytest
import ray

from pipeline import settings, synthetic
from pipeline.clips.indexing import index
from pipeline.clips.table import append
from pipeline.config import Config, ResourcesConfig
from pipeline.runtime.session import connect
from pipeline.storage import Location

if TYPE_CHECKING:
    from tests.whole_runs import Calm

ROOT = Path(__file__).resolve().parents[1]
SHARED_MEDIA = ROOT.parent / "shared" / "media"

# Settings that make a whole run a matter of seconds.
TINY = [
    "clips.video.fps=12",
    "clips.video.frames=4",
    "clips.video.size=24",
    "clips.video.short_side=26",
    "clips.video.train_short_side=[24,28]",
    "clips.audio.window_s=1.0",
    "clips.audio.spectrogram_frames=40",
    "encoders.video=r2plus1d_small",
    "encoders.audio=resnet_small",
    "encoders.warm_batches=1",
    "embedding.batch_size=16",
    "clustering.k=4",
    "clustering.iterations=5",
    "clustering.pca_dim=8",
    "clustering.shards=2",
    "clustering.cpus_per_shard=0.25",
    "learning.batch_size=8",
    "learning.epochs=1",
    "learning.held_out=0.1",
    "learning.cpus_per_worker=0.5",
    "learning.optimizer=adamw",
    "learning.lr=0.001",
    "rounds=1",
]


@lru_cache
def shares_ray(path: str) -> bool:
    """Whether a file's tests use the Ray below."""
    return re.search(r"\b(local_ray|indexed|calm|new_run:)", (ROOT / path).read_text()) is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not shares_ray(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two processes one has all tests that use the Ray below, the other the rest, file by file.

    Two Rays at once would not fit into a small machine's memory.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if shares_ray(path) else path

    return ByRay(config, log)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all tests of this process, with more logical CPUs than cores."""
    connect(ResourcesConfig(local_cpus=6, object_store_mb=512))
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cuts table of 48 generated mp4 files of four classes."""
    folder = tmp_path_factory.mktemp("world")
    settings = synthetic.SyntheticWorld(classes=4, places=4, size=48, seconds=1.2, difficulty=0.0)
    return synthetic.write_world(folder, 48, settings)


@pytest.fixture(scope="session")
def indexed(world: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A run directory whose clips table holds the small world; tests copy it, see `new_run`."""
    run = Location.of(tmp_path_factory.mktemp("indexed"))
    index(str(world), run, tiny())
    return run


@pytest.fixture(scope="session")
def calm(indexed: Location, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A finished run that tests read, copy, or take up without changing what it holds."""
    from tests.whole_runs import calm_run

    return calm_run(indexed, Location.of(tmp_path_factory.mktemp("calm")))


@pytest.fixture
def new_run(indexed: Location, tmp_path: Path) -> Callable[[], Location]:
    """Makes further run directories with the same clips."""
    return lambda name="run": copy_clips(indexed, Location.of(tmp_path / name))


def copy_clips(run: Location, to: Location) -> Location:
    for part in (run / "clips").files():
        (to / "clips" / part.name).write_bytes(part.read_bytes())
    return to


def rewrite_clips(run: Location, table: pa.Table) -> None:
    """Make these rows the run's clips table."""
    for old in (run / "clips").files():
        old.delete()
    append(run / "clips", [table])


def tiny(*overrides: str) -> Config:
    """The settings above, on the Ray above: two decoding tasks at once, since each has to start."""
    return settings.load([*TINY, "resources.decode_cpus=1", *overrides])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on loopback, in a process of its own; yields its endpoint."""
    port = free_port()
    with (tmp_path_factory.mktemp("s3") / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_server: str) -> str:
    """The S3 server's endpoint; its bucket ``s3://media`` is new and empty.

    Ray's workers and the decoding children were started before it and do not know it: tests that
    reach them name it in the URI (`s3_uri`).
    """
    import boto3

    reset = urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=60).close()
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="media")
    return s3_server


def wait_for_port(port: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"nothing listens on port {port} after {seconds:.0f} s")


def s3_uri(path: str, endpoint: str) -> str:
    """An S3 URI that carries its endpoint to every process."""
    host = endpoint.removeprefix("http://")
    return f"s3://{path}?endpoint_override={host}&scheme=http&region=us-east-1"


def shared_media(name: str) -> Path:
    """A folder of the shared media; skips the test where it is absent."""
    folder = SHARED_MEDIA / name
    if not folder.exists():
        pytest.skip(f"the shared media folder {name!r} is not beside this checkout")
    return folder
