"""Ranges of objects, with obstore where it reads what pyarrow would, else with pyarrow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import pytest

from pipeline import objects
from pipeline.objects import Changed, RemoteObject
from pipeline.storage import Location
from tests.clips.decoding.flaky_s3 import flaky
from tests.conftest import s3_uri

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def place(s3: str) -> Location:
    place = Location.of(s3_uri("media/hello", s3))
    place.write_bytes(b"hello world")
    return place


def test_a_range_is_one_request_and_tells_size_and_etag(place: Location, s3: str) -> None:
    with flaky(s3, 0, 0) as (endpoint, did):
        read = RemoteObject(Location.of(s3_uri("media/hello", endpoint)))
        assert read.read(0, 5) == b"hello"
        assert did["asked"] == 1
        etag = boto3.client("s3", endpoint_url=s3).head_object(Bucket="media", Key="hello")["ETag"]
        assert (read.size, read.etag) == (11, etag)
        assert read.read(6, 100) == b"world"
        assert did["asked"] == 2


def test_an_empty_object_is_read(s3: str) -> None:
    place = Location.of(s3_uri("media/empty", s3))
    place.write_bytes(b"")
    read = RemoteObject(place)
    assert read.read(0, 100) == b""
    assert read.size == 0


def test_another_object_has_changed(place: Location) -> None:
    read = RemoteObject(place)
    read.read(0, 5)
    place.write_bytes(b"other words")
    for known in (read, RemoteObject(place, size=12), RemoteObject(place, etag='"1"')):
        with pytest.raises(Changed):
            known.read(0, 5)
    assert RemoteObject(place).read(0, 5) == b"other"


def test_faults_are_the_systems(place: Location, s3: str) -> None:
    with pytest.raises(FileNotFoundError):
        RemoteObject(Location.of(s3_uri("media/none", s3))).read(0, 5)
    with pytest.raises(FileNotFoundError):
        RemoteObject(Location.of(s3_uri("nowhere/none", s3))).read(0, 5)
    with pytest.raises(OSError, match="416"):
        RemoteObject(place).read(100, 200)
    gone = Location.of(s3_uri("media/416", "http://127.0.0.1:9"))
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        RemoteObject(gone, patient=False).read(0, 5)


@pytest.mark.parametrize(
    "key", ["100%41.mp4", "a#b?c", "é 😀 'q' \"q\"", "a//b", "/lead", "a/./b", "x/../y"]
)
def test_every_key_reads_itself(key: str, s3: str) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    client.put_object(Bucket="media", Key=f"k/{key}", Body=key.encode())
    for other in ("k/100A.mp4", "k/a", "k/lead", "k/y", "y", "k/a/b"):
        client.put_object(Bucket="media", Key=other, Body=b"another")
    read = RemoteObject(Location.of(s3_uri("media/k", s3)) / key)
    assert read.read(0, 100) == key.encode()
    assert read.size == len(key.encode())


def test_credentials_in_the_sdks_files_are_left_to_pyarrow(
    place: Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert RemoteObject(place)._client is not None
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    read = RemoteObject(place)
    assert read._client is None
    assert (read.read(0, 5), read.read(6, 11), read.size) == (b"hello", b"world", 11)
    with pytest.raises(Changed):
        RemoteObject(place, size=10).read(0, 5)


def test_the_endpoint_of_a_uri_comes_before_the_environments(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    objects._store.cache_clear()
    assert RemoteObject(place, patient=False).read(0, 5) == b"hello"


def test_threads_share_an_object(place: Location) -> None:
    read = RemoteObject(place)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(read.read(n, n + 1))) for n in range(11)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(bytes([each]) for each in b"hello world")


def test_a_forked_process_reads(place: Location) -> None:
    reads = f"""
import os, signal, sys
from pipeline.objects import RemoteObject
from pipeline.storage import Location
place = Location.of({place.full_uri!r})
assert RemoteObject(place).read(0, 5) == b"hello"
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(0 if RemoteObject(place).read(0, 5) == b"hello" else 1)
sys.exit(os.waitpid(child, 0)[1])
"""
    ended = subprocess.run(
        [sys.executable, "-c", reads], cwd=ROOT, check=False, env={**os.environ}, timeout=120
    )
    assert ended.returncode == 0
