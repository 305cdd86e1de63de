"""Remote storage that is away is waited for, and what refuses is said at once."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from pipeline import patience
from pipeline.errors import UserError
from pipeline.patience import StorageAway, StorageRefused
from pipeline.storage import Location
from tests.conftest import s3_uri
from tests.faulty_s3 import Faults, faulty, for_seconds

OPERATIONS: dict[str, Callable[[Location], object]] = {
    "info": lambda place: place.info(),
    "read": lambda place: place.read_bytes(),
    "table": lambda place: place.read_table(),
    "list": lambda place: Location("s3://media/folder", place.query).children(),
    # Of a key that boto3 reads.
    "odd info": lambda place: (place / "" / "x").info(),
    "odd list": lambda place: (place / "" / "x").children(),
    "write": lambda place: place.write_bytes(b"new"),
    "delete": lambda place: place.delete(),
}


@pytest.fixture
def storage(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Location, Faults]]:
    """A Parquet object behind the proxy."""
    monkeypatch.setattr(patience, "_announced", {})
    monkeypatch.setattr(patience, "_QUIET_S", 0.3)
    with faulty(s3) as (endpoint, faults):
        place = Location.of(s3_uri("media/folder/file", endpoint))
        place.write_table(pa.table({"n": [1, 2, 3]}))
        yield place, faults


@pytest.fixture(autouse=True)
def _nothing_was_said_yet() -> None:
    """Other tests' buckets have the same name, and the same line is said once a minute."""
    patience._announced.clear()
    patience._away.clear()


@pytest.mark.parametrize("fault", ["503 SlowDown", "closed"])
def test_storage_that_comes_back_is_waited_for(
    fault: str, storage: tuple[Location, Faults], capsys: pytest.CaptureFixture[str]
) -> None:
    place, faults = storage
    faults.answer = for_seconds(4.0, fault)  # the SDK waits up to 3 s by itself
    assert place.read_table()["n"].to_pylist() == [1, 2, 3]
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in told] == [
        "s3://media does not answer",
        "s3://media answers again",
    ]
    assert "storage_patience_minutes" in told[0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_storage_that_stays_away_is_one_line(
    name: str, storage: tuple[Location, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, faults = storage
    monkeypatch.setenv(patience.VARIABLE, "0.1")
    faults.answer = lambda method, path: "503 SlowDown"
    with pytest.raises(StorageAway, match=r"s3://media/folder.* has not answered for \d") as error:
        OPERATIONS[name](place)
    assert "\n" not in str(error.value)
    assert "storage_patience_minutes" in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, "403 AccessDenied") for name in OPERATIONS]
    + [("write", "403 SignatureDoesNotMatch"), ("list", "400 ExpiredToken")]
    + [("read", "403 RequestTimeTooSkewed")],
)
def test_refused_access_is_said_at_once(
    name: str, fault: str, storage: tuple[Location, Faults]
) -> None:
    place, faults = storage
    faults.answer = lambda method, path: fault
    started = time.monotonic()
    with pytest.raises(StorageRefused, match="refuses s3://media/folder") as error:
        OPERATIONS[name](place)
    assert time.monotonic() - started < 5
    assert isinstance(error.value, UserError)
    assert "credentials" in str(error.value)
    assert "clock" in str(error.value)


def test_a_bucket_that_is_not_there(storage: tuple[Location, Faults]) -> None:
    place = Location("s3://nowhere/file", storage[0].query)
    assert not place.exists()
    with pytest.raises(FileNotFoundError):
        place.read_bytes()
    with pytest.raises(StorageRefused, match="NO_SUCH_BUCKET"):
        place.write_bytes(b"1")


def test_a_write_that_breaks_off_is_whole_or_not_at_all(
    storage: tuple[Location, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, faults = storage
    place.write_bytes(b"old")
    large = os.urandom(11 << 20)  # three parts
    broken: list[str] = []

    def break_second_part(method: str, path: str) -> str:
        if "partNumber=2" not in path or len(broken) >= 4:
            return ""
        broken.append(path)
        return "broken"

    faults.answer = break_second_part
    place.write_bytes(large)
    assert len(broken) == 4, "more often than the library tries again"
    assert place.read_bytes() == large
    broken.clear()
    monkeypatch.setenv(patience.VARIABLE, "0")
    with pytest.raises(StorageAway):
        (place / "other").write_bytes(large)
    assert not (place / "other").exists()
    broken.clear()
    with pytest.raises(StorageAway):
        place.write_bytes(b"x" + large)
    assert place.read_bytes() == large


def test_another_fault_is_not_waited_for(storage: tuple[Location, Faults]) -> None:
    place, faults = storage
    started = time.monotonic()
    faults.answer = lambda method, path: "405 MethodNotAllowed" if method == "PUT" else ""
    with pytest.raises(OSError, match="405") as error:
        place.write_bytes(os.urandom(12 << 20))
    assert not isinstance(error.value, UserError)
    assert time.monotonic() - started < 10
