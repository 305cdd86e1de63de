"""Test examples that the encoders have learned from, without their labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.table import ClipTable
from pipeline.evaluation.examples import Examples
from pipeline.evaluation.splits import Split
from pipeline.run import Run
from pipeline.telemetry.console import say


def learned_from(run: Run, examples: Examples, splits: Mapping[str, Split]) -> dict[str, int]:
    """How many test examples of each split pretraining has seen, by their clips or files."""
    clips = ClipTable.open(run.clips)
    learned = pa.array(clips.in_splits(run.config.clips.split))
    # The run's own examples are its clips; those of a dataset may be the same files.
    column = "clip_id" if examples.windows.location == run.clips else "uri"
    seen = clips.column(column).filter(pa.chunked_array([learned])).unique()
    known = pc.is_in(examples.windows.column(column), value_set=seen).to_numpy()
    return {name: int(np.count_nonzero(known[split.test])) for name, split in splits.items()}


def warn_of_overlap(overlap: Mapping[str, int], splits: Mapping[str, Split]) -> None:
    for name, count in overlap.items():
        if count:
            say(
                f"warning: the run learned from {count:,} of the {len(splits[name].test):,} test "
                f"examples of split {name!r}, without their labels; a run with clips.split=train "
                "keeps them out"
            )
