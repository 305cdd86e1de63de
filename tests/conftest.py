"""What every test may use: one local Ray, one small generated world, one S3 server on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "120")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")

import pytest
import ray

from pipeline import config, synthetic
from pipeline.clips.index import index
from pipeline.config import Config, ResourcesConfig
from pipeline.session import connect
from pipeline.storage import Location

SHARED_MEDIA = Path(__file__).resolve().parents[2] / "shared" / "media"

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
    "learning.heldout=0.1",
    "learning.cpus_per_worker=0.5",
    "learning.optimizer=adamw",
    "learning.lr=0.001",
    "rounds=1",
]


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
    settings = synthetic.World(classes=4, places=4, size=48, seconds=1.2, difficulty=0.0)
    return synthetic.write_world(folder, 48, settings)


@pytest.fixture(scope="session")
def indexed(world: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A run directory whose clips table holds the small world; tests copy it, see `new_run`."""
    run = Location.of(tmp_path_factory.mktemp("indexed"))
    index(str(world), run, tiny())
    return run


@pytest.fixture
def new_run(indexed: Location, tmp_path: Path) -> Callable[[str], Location]:
    """Makes further run directories with the same clips."""

    def make(name: str = "run") -> Location:
        run = Location.of(tmp_path / name)
        for part in (indexed / "clips").files():
            (run / "clips" / part.name).write_bytes(part.read_bytes())
        return run

    return make


def tiny(*overrides: str) -> Config:
    return config.load([*TINY, *overrides])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real S3 server on loopback with the bucket ``s3://media``; yields its endpoint.

    Ray's workers were started before it, so tests put the endpoint into their URIs.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="media")
    yield endpoint
    server.stop()


def s3_uri(path: str, endpoint: str) -> str:
    """An S3 URI that carries its endpoint and test credentials to every process."""
    host = endpoint.removeprefix("http://")
    query = f"endpoint_override={host}&scheme=http&region=us-east-1"
    return f"s3://test:test@{path}?{query}"


def shared_media(name: str) -> Path:
    """A folder of the shared media; skips the test where it is absent."""
    folder = SHARED_MEDIA / name
    if not folder.exists():
        pytest.skip(f"the shared media folder {name!r} is not beside this checkout")
    return folder
