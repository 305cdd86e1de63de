"""Test examples that pretraining has learned from are counted, by clip and by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.clips.table import ClipTable
from pipeline.evaluation.examples import of_run
from pipeline.evaluation.overlap import learned_from, warn_of_overlap
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import tiny


@pytest.mark.parametrize(("split", "count"), [("[]", 14), ("train", 0), ("[train,test]", 14)])
def test_what_was_learned_from_is_told(
    new_run: Callable[[], Location],
    split: str,
    count: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run(new_run(), tiny(f"clips.split={split}"))
    clips = ClipTable.open(run.clips)
    examples = of_run(clips, run.location / "x", "test", run.config, 1)
    splits = {"test": examples.split("test")}
    found = learned_from(run, examples, splits)
    assert found == {"test": count}
    # A dataset whose files are the run's.
    elsewhere = replace(clips, location=run.location / "elsewhere")
    parts = [run.clips / part for part in clips.parts]
    for part in parts:
        (elsewhere.location / part.name).write_bytes(part.read_bytes())
    assert learned_from(run, replace(examples, windows=elsewhere), splits) == found
    warn_of_overlap(found, splits)
    told = "warning: the run learned from 14 of the 14 test examples of split 'test'"
    assert (told in capsys.readouterr().out) == bool(count)
    assert np.all(clips.in_splits(("train",)) != clips.in_splits(("test",)))
