from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

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
