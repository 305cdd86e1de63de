"""Which examples have which label, and which of them are for training and which for testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.table import ClipTable, distinct
from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import TEST, TRAIN, is_test_by_hash


@dataclass(frozen=True)
class Split:
    """Labelled examples of one split, int64, ascending; no source has examples on both sides."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class LabelledExamples:
    """Examples with their labels, their sources and their sides in each split."""

    labels: np.ndarray  # int64 [examples], an index into `classes`, -1 where there is none
    classes: list[str]  # the labels' names
    sources: np.ndarray  # int64 [examples], what each was cut from, an index into `source_names`
    source_names: list[str]
    sides: dict[str, np.ndarray]  # split → ``train``, ``test`` or empty, object [examples]

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, name: str) -> Split:
        """The split; raises UserError if a side is empty or a source is on both sides."""
        labelled = self.labels >= 0
        train = np.flatnonzero((self.sides[name] == TRAIN) & labelled)
        test = np.flatnonzero((self.sides[name] == TEST) & labelled)
        if not len(train) or not len(test):
            raise UserError(
                f"split {name!r} has {len(train):,} labelled training and {len(test):,} test "
                f"examples, and both are needed; splits are {', '.join(self.sides)}"
            )
        shared = np.intersect1d(self.sources[train], self.sources[test])
        if len(shared):
            named = ", ".join(self.source_names[s] for s in shared[:3])
            raise UserError(
                f"split {name!r} has {len(shared):,} source videos on both its training and its "
                f"test side ({named}{', …' if len(shared) > 3 else ''}), which would reward "
                "memory; correct the lists or name another split with --fold"
            )
        return Split(train, test)


def sides_of(clips: ClipTable, test_split: str) -> np.ndarray:
    """The side of each clip of a run, ``train``, ``test`` or empty, object [N].

    The split column decides; its value `test_split` is tested on. Where the column is empty for all
    clips, a hash of the file's URI puts three files in ten on the test side.
    """
    given, names = distinct(clips.column("split"))
    if len(names):
        by_name = {test_split: TEST, "train": TRAIN}
        sides = [by_name.get(name, "") for name in names.to_pylist()]
    else:
        given, names = distinct(clips.column("uri"))
        sides = [TEST if is_test_by_hash(uri) else TRAIN for uri in names.to_pylist()]
    return np.array([*sides, ""], object)[given]


def check_sides(clips: ClipTable, sides: np.ndarray) -> None:
    """Raise UserError unless there are training and test clips; it says what the table holds."""
    train, test = ((sides == side).sum() for side in (TRAIN, TEST))
    if train and test:
        return
    found = sorted(clips.column("split").unique().drop_null().to_pylist())
    told = "a hash of the files' names split them; add a column split with train and test"
    if found:
        told = f"their split column holds {', '.join(found)}; choose another with --test-split"
    raise UserError(
        f"the clips of {clips.location} give {train:,} training and {test:,} test examples, and "
        f"both are needed: {told}"
    )


def numbered(names: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Labels by name as numbers, int64 [n] (-1: none), and the names in alphabetical order."""
    classes = sorted(names.unique().drop_null().to_pylist())
    numbers = pc.index_in(names, value_set=pa.array(classes, names.type)).fill_null(-1)
    return numbers.to_numpy().astype(np.int64), classes
