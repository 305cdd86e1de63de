"""A whole run in a bucket that fails, breaks off and lists late: the bytes of one on a disk."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.fs
import pytest

from pipeline.rounds import pretrain
from pipeline.storage import Location
from tests.conftest import copy_clips, s3_uri, tiny
from tests.faulty_s3 import faulty
from tests.whole_runs import CALM, Calm, results

FAULTS = ("500 InternalError", "503 SlowDown", "closed", "broken")


@pytest.mark.chaos
def test_a_run_in_a_bucket_with_faults(
    calm: Calm, indexed: Location, s3: str, tmp_path: Path
) -> None:
    draw, failed = random.Random(0), []

    def answer(method: str, path: str) -> str:
        if draw.random() > 0.04:
            return ""
        failed.append(path)
        return draw.choice(FAULTS)

    with faulty(s3) as (endpoint, faults):
        place = copy_clips(indexed, Location.of(s3_uri("media/run", endpoint)))
        faults.answer, faults.lag_s = answer, 5.0
        pretrain(tiny(f"run='{place.full_uri}'", *CALM, "rounds=2"))
    assert len(failed) > 20
    there = Location.of(s3_uri("media/run", s3))
    pyarrow.fs.copy_files(there.path, str(tmp_path / "found"), there.fs)
    assert results(Location.of(tmp_path / "found")) == results(calm.place)
