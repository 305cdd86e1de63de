"""A seeded sample of a run's clips, as small clips tables that the real stages take.

An embedding pass takes clips in the order of the table, where neighbours share their file;
learning draws them from everywhere. So there are two: `ordered`, runs of neighbours as long as a
batch, and `drawn`. Few parts of the table are read, however many it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.clips.table import SCHEMA, ClipTable, append
from pipeline.config import Config
from pipeline.methods import MODALITIES
from pipeline.storage import Location

_PARTS = 4  # of the table that are read
_RUNS = 8  # batches of neighbours
_DRAWN = 512  # clips from anywhere


@dataclass(frozen=True)
class Sample:
    """Rows of the clips table, renumbered from 0."""

    ordered: pa.Table
    drawn: pa.Table

    @classmethod
    def of(cls, clips: ClipTable, config: Config) -> Sample:
        """Of the clips that a run of these settings takes; the same for the same seed."""
        rng = np.random.default_rng((config.seed, *b"plan"))
        there = _candidates(clips, config, rng)
        size = config.embedding.batch_size
        together = config.learning.max_neighbours
        ordered = np.sort(_runs(there, size, _RUNS, rng))
        drawn = _runs(there, together, max(_DRAWN // together, 1), rng)
        columns = [name for name in SCHEMA.names if name != "clip_index"]
        return cls(clips.rows(ordered, columns), clips.rows(drawn, columns))


def table_of(folder: Location, rows: pa.Table) -> ClipTable:
    """A clips table of these rows in a new folder."""
    append(folder, [rows])
    return ClipTable.open(folder)


def _candidates(clips: ClipTable, config: Config, rng: np.random.Generator) -> np.ndarray:
    """int64, ascending: usable clips of some parts, drawn until they are enough."""
    wanted = _RUNS * config.embedding.batch_size + _DRAWN
    found: list[np.ndarray] = []
    columns = ["clip_index", "split", *(f"has_{m}" for m in MODALITIES)]
    for number in rng.permutation(len(clips.parts)):
        start, stop = clips.offsets[number : number + 2]
        table = clips.rows(np.arange(start, stop), columns)
        usable = np.logical_or.reduce([table[f"has_{m}"].to_numpy() for m in MODALITIES])
        if splits := config.clips.split:
            usable &= np.isin(table["split"].to_numpy(zero_copy_only=False).astype(str), splits)
        found.append(start + np.flatnonzero(usable))
        if len(found) >= _PARTS and sum(map(len, found)) >= wanted:
            break
    return np.sort(np.concatenate(found))


def _runs(there: np.ndarray, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64: up to `count` runs of `length` neighbours, none twice, in any order."""
    starts = np.arange(0, len(there), length)
    chosen = rng.choice(starts, min(count, len(starts)), replace=False)
    return np.concatenate([there[start : start + length] for start in chosen])
