from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.storage import Location
from tests.conftest import s3_uri

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location.of(tmp_path) / "folder"
    return Location.of(s3_uri("media/folder", request.getfixturevalue("s3")))


def test_what_is_written_is_read_back(folder: Location) -> None:
    (folder / "a.json").write_json({"x": 1})
    (folder / "deep" / "t.parquet").write_table(pa.table({"n": [1, 2, 3]}))
    assert (folder / "a.json").read_json() == {"x": 1}
    assert (folder / "deep" / "t.parquet").read_table()["n"].to_pylist() == [1, 2, 3]
    assert [place.name for place in folder.files()] == ["a.json"]
    assert len([info for info in folder.children(recursive=True) if info.is_file]) == 2


def test_missing_things_are_missing(folder: Location) -> None:
    assert not (folder / "nothing").exists()
    assert list((folder / "nothing").files()) == []
    (folder / "nothing").delete()


def test_delete_removes_a_whole_folder(folder: Location) -> None:
    (folder / "x" / "a").write_bytes(b"1")
    (folder / "x" / "b" / "c").write_bytes(b"2")
    (folder / "x").delete()
    assert not (folder / "x" / "b" / "c").exists()


def test_a_location_travels_to_another_process(folder: Location) -> None:
    (folder / "a").write_bytes(b"1")
    assert (pickle.loads(pickle.dumps(folder)) / "a").read_bytes() == b"1"
    assert Location.of(folder.full_uri) == folder


def test_a_file_that_is_filled_piece_by_piece_is_whole_or_not_there(folder: Location) -> None:
    with (folder / "a").writing() as file:
        for number in range(3):
            file.write(bytes([number]) * 9_000_000)  # more than is sent at once
        assert not (folder / "a").exists()
    assert (folder / "a").read_bytes() == b"".join(bytes([n]) * 9_000_000 for n in range(3))
    with pytest.raises(ZeroDivisionError), (folder / "a").writing() as file:
        file.write(bytes([1 // 0]))
    assert (folder / "a").info().size == 27_000_000
    assert [place.name for place in folder.files()] == ["a"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "a"
    place.write_bytes(b"old")
    with pytest.raises(TypeError):
        place.write_bytes("not bytes")  # type: ignore[arg-type]
    assert place.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_killed_writers_left_is_swept_up(tmp_path: Path) -> None:
    dies_writing = f"""
import os, signal
from pipeline.storage import Location
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
Location.of({str(tmp_path / "deep" / "a")!r}).write_bytes(b"1")
"""
    died = subprocess.run([sys.executable, "-c", dies_writing], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    (tmp_path / "deep" / "b.tmp").write_text("a name of the user's")
    assert len(list((tmp_path / "deep").iterdir())) == 2
    Location.of(tmp_path).sweep()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["b.tmp"]


def test_endpoint_of_the_environment_is_used(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    place = Location.of("s3://media/by-environment")
    place.write_bytes(b"1")
    assert place.read_bytes() == b"1"
    assert "127.0.0.1" not in place.full_uri


def test_unknown_scheme_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="ftp"):
        Location.of("ftp://host/folder")


# Keys as S3 takes them, but for what this server or XML cannot carry: line breaks and controls. A
# trailing slash marks a folder, and a leading dot a hidden file.
_PART = st.text(
    st.sampled_from("ab?#%&=+;: \\\"'[]{}*~@|^`<>,!$()é😀.") | st.characters(codec="utf-8"),
    min_size=1,
    max_size=12,
).filter(lambda part: part.isprintable() and "/" not in part and not part.startswith("."))
_KEYS = (
    st.lists(_PART | st.just(""), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda key: key and not key.endswith("/"))
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_KEYS)
@example("a?b#c//%41 %20+&=;.mp4")
@example("/lead")
@example("x?region=eu&scheme=http")
@example("x?&")
@example("end?")
@example("watch?v=abc&token=def.mp4")
@example("user:pass@host/x.mp4")
@example("dots...")
@example("new [1] 'q' \"q\" \\ 😀")
def test_every_key_of_a_bucket_reads_itself(s3: str, key: str) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    client.put_object(Bucket="media", Key=f"k/{key}", Body=key.encode())
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", s3)
            for folder in ("s3://media/k", s3_uri("media/k", s3)):
                place = Location.of(folder) / key
                assert Location.of(place.full_uri) == place
                assert place.read_bytes() == key.encode()
                assert place.info().size == len(key.encode())
                names = [info.path for info in Location.of(folder).children(recursive=True)]
                assert f"media/k/{key}" in names
    finally:
        client.delete_object(Bucket="media", Key=f"k/{key}")


def test_a_plain_key_is_written_as_it_is() -> None:
    for key in ("a b.mp4", "a#b.mp4", "100%25.mp4", "what?.mp4", "x//y.mp4", "watch?v=1.mp4"):
        address = f"s3://media/{key}"
        assert Location.named(address).full_uri == address
        assert Location.named(address.replace("s3:", "s3a:")).full_uri == address


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(min_size=1, max_size=20).filter(
        lambda name: not set(name) & {0, ord("/")} and name not in (b".", b"..")
    )
)
@example(b"%41")
@example(b"a?b#c&d=e")
@example(b"caf\xe9")
@example(b"s3:")
@example(b"new\nline")
@example(b"~")
def test_every_local_name_reads_itself(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    place = Location.of(tmp_path) / os.fsdecode(name)
    for same in (place, Location.of(place.full_uri), Location.of(os.fsdecode(path))):
        assert os.fsencode(same.uri) == path
    assert Location.of(Path(os.fsdecode(path)).as_uri()) == place
    place.full_uri.encode()  # as tables keep it
    str(place).encode()  # as messages have it
    readable = b"\xff" not in name and os.fsdecode(name).isprintable()
    assert (place.full_uri == os.fsdecode(path)) or not readable


@pytest.mark.parametrize(
    "address",
    [
        *("s3://KEYID:HIDDEN@bucket/x", "s3://KEYID:HID/DEN+x@bucket/x", "s3://KEYID@bucket/x"),
        *("s3a://KEYID:HIDDEN@bucket/x", "gs://HIDDEN@bucket/x", "abfss://box:HIDDEN@host/x"),
        *("s3://bucket/x?access_key=KEYID&secret_key=HIDDEN", "s3://bucket/x?session_token=HIDDEN"),
        "https://KEYID:HIDDEN@host/x",
    ],
)
def test_credentials_in_an_address_are_refused_without_showing_them(address: str) -> None:
    with pytest.raises(UserError) as error:
        Location.of(address)
    assert not re.search(r"KEYID|HID", str(error.value))
    assert "\n" not in str(error.value)


def test_addresses_that_only_look_like_credentials() -> None:
    for address in (
        *("s3://bucket/user:pass@host.mp4", "abfss://box@store.dfs.core.windows.net/x"),
        *("hdfs://host:8020/a@b:c", "gs://anonymous@bucket/x", "s3://bucket/monkey=1?.mp4"),
    ):
        assert Location.named(address).full_uri == address


@pytest.mark.parametrize("address", ["", " ", "s3://", "s3:///key", "https://host/x", "az://box/x"])
def test_what_is_no_address_is_a_clear_error(address: str) -> None:
    with pytest.raises(UserError):
        Location.of(address)


def test_a_file_system_without_its_library_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="hdfs"):
        Location.of("hdfs://localhost:1/x")
