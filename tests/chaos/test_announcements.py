"""What many workers wait for is one line of the driver's."""

from __future__ import annotations

import time

import pytest
import ray

from pipeline import patience
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress
from tests.conftest import s3_uri
from tests.faulty_s3 import faulty, for_seconds


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_what_workers_wait_for_is_said_once(s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    patience._announced.clear()

    @ray.remote(num_cpus=0.5)
    def read(place: Location) -> tuple[float, int]:
        return patience.patience_s(), len(place.read_bytes())

    with faulty(s3) as (endpoint, faults), Progress("read", 3, "files"):
        place = Location.of(s3_uri("media/file", endpoint))
        place.write_bytes(b"content")
        faults.answer = for_seconds(9.0, "503 SlowDown")
        found = ray.get([read.remote(place) for _ in range(3)])
        end = time.monotonic() + 10
        out = ""
        while "again" not in out and time.monotonic() < end:
            time.sleep(0.2)
            out += capsys.readouterr().out
    assert {waits for waits, _ in found} == {patience.DEFAULT_S}
    assert out.count("s3://media does not answer") == 1
    assert out.count("s3://media answers again") == 1
