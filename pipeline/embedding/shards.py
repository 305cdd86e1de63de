"""Feature shards: Parquet of ``clip_index`` int64, ``features`` fixed_size_list<float16>[d].

    features/<modality>/  part-*.parquet  _written/part-*.parquet  _DONE

Rows lie over any number of files, ascending in each (sealed_parquet.py), each clip at most once; a
clip without features is absent. Beside every shard lies its record (written.py), by which it
counts. What training kept of its own features (memory_bank.py) lies there in the same way, under
names of its own. Imports no torch, so that the tasks that write shards start fast.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from pipeline.clips.rejects import AWAY, RejectedClip, write_rejects
from pipeline.embedding.written import Folders, Origin, Written, rejects_prefix, write_record
from pipeline.errors import UserError
from pipeline.manifest import Manifest
from pipeline.sealed_parquet import sorted_parquet
from pipeline.storage import Location, from_parquet

_REJECT = pa.struct([(name, pa.string()) for name in RejectedClip._fields[1:]])
REJECTS = pa.list_(_REJECT)  # why a clip, or a modality of it, has no features
_LARGEST = float(np.finfo(np.float16).max)


def as_feature_array(features: np.ndarray, present: np.ndarray) -> pa.Array:
    """Float [B, d] and bool [B] → fixed_size_list<float16>[d] with nulls for absent rows.

    What float16 cannot hold is clamped.
    """
    half = np.clip(features, -_LARGEST, _LARGEST).astype(np.float16)
    values, absent = pa.array(half.reshape(-1), pa.float16()), pa.array(~present.astype(bool))
    return pa.FixedSizeListArray.from_arrays(values, features.shape[1], mask=absent)


def as_row(table: pa.Table) -> pa.Table:
    """A table as one row of lists: Ray Data then leaves it in one block (`Slots.stream`)."""
    ends = pa.array([0, len(table)], pa.int32())
    columns = [pa.concat_arrays(column.chunks) for column in table.columns]
    lists = [pa.ListArray.from_arrays(ends, column) for column in columns]
    return pa.table(lists, names=table.column_names)


def of_rows(tables: Iterable[pa.Table]) -> pa.Table:
    """All that `as_row` made rows of."""
    rows = pa.concat_tables(tables)
    return pa.table({name: pc.list_flatten(rows[name]) for name in rows.column_names})


class FeatureSink(Datasink[str]):
    """Writes feature tables (`as_row`) as shards, one Parquet file a modality and write task.

    A task that Ray runs again writes the same file names; another pass, also one that still runs
    somewhere, writes others. Clips that are `again` (modality → int64) are not written twice.
    """

    def __init__(
        self,
        out: Folders,
        rejects: Location,
        origin: Origin,
        rows_per_file: int,
        written: Written,
        again: Mapping[str, np.ndarray],
    ) -> None:
        self.out, self.rejects, self.origin = out, rejects, origin
        self.rows_per_file, self.again = rows_per_file, again
        self.rejected_before = written.rejected_before
        self.token = uuid.uuid4().hex[:8]
        self.names: list[str] = []  # of shards, once all is written: listings may lag

    @property
    def min_rows_per_write(self) -> int:
        return self.rows_per_file  # rows of Ray Data's

    def write(self, blocks: Iterable[Block], ctx: Any) -> str:
        table = of_rows(BlockAccessor.for_block(block).to_arrow() for block in blocks)
        name = f"part-{self.token}-{ctx.task_idx:06d}.parquet"
        fresh = {m: _outside(table, again) for m, again in self.again.items()}
        rejected = _rejected(table.filter(reduce(pc.or_, fresh.values())))
        if len(rejected):
            place = self.rejects / f"{rejects_prefix(self.out)}{name}"
            attempts = 1 + _counts_of(self.rejected_before, rejected["clip_index"].to_numpy())
            write_rejects(place, rejected, "embed", attempts)
        for modality, rows in fresh.items():
            if len(written := table.filter(rows)):
                write_shard(self.out[modality], modality, name, written, self.origin)
        return name

    def on_write_complete(self, write_result: WriteResult[str]) -> None:
        self.names += write_result.write_returns


def write_shard(
    folder: Location, modality: str, name: str, table: pa.Table, origin: Origin | None
) -> None:
    """Write one shard, then the record by which it counts.

    Args:
        table: ``clip_index``, features (null: absent) in a column named after the modality, and
            `REJECTS` (null: none).
        origin: what the features are made of; None: training, of the weights that it made.
    """
    present = table.filter(table[modality].is_valid())
    entry = None
    if len(present):
        shard = pa.table({"clip_index": present["clip_index"], "features": present[modality]})
        data, entry = sorted_parquet(shard, "clip_index")
        (folder / name).write_bytes(data)
    rejected = _rejected(table)
    whole = rejected.filter(rejected["modality"].is_null())
    rows = {
        "rejected": whole,
        "away": whole.filter(pc.is_in(whole["reason"], pa.array(sorted(AWAY)))),
        "lost": rejected.filter(pc.equal(rejected["modality"], modality)),
    }
    flags = {"present": table[modality].is_valid()}
    flags |= {n: pc.is_in(table["clip_index"], some["clip_index"]) for n, some in rows.items()}
    record = pa.table({"clip_index": table["clip_index"], **flags})
    write_record(folder, name, record, entry, origin.noted(modality) if origin else None)


def read_features(
    folder: Location, num_clips: int, only: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features, for evaluation: float16 [n, d] (zeros where absent), and bool [n] present.

    Args:
        only: bool [N], the n clips that are wanted; None: all.

    Raises:
        Damaged: a file is not as it was written.
        UserError: there are no features.
    """
    manifest = Manifest.whole(folder)
    features: np.ndarray | None = None
    only = np.ones(num_clips, bool) if only is None else only
    row = np.cumsum(only) - 1
    present = np.zeros(np.count_nonzero(only), bool)
    for name in manifest.files if manifest else ():
        table = from_parquet(manifest.load(name))  # type: ignore[union-attr]
        column = table["features"].combine_chunks()
        if features is None:
            features = np.zeros((len(present), column.type.list_size), np.float16)
        clips = table["clip_index"].to_numpy()
        wanted = only[clips]
        rows = row[clips[wanted]]
        features[rows] = column.flatten().to_numpy().reshape(len(table), -1)[wanted]
        present[rows] = True
    if features is None:
        raise UserError(f"there are no features in {folder}: was every clip rejected?")
    return features, present


def _rejected(table: pa.Table) -> pa.Table:
    """One row a reject: columns of `RejectedClip`."""
    some = table.select(["clip_index", "rejects"]).filter(table["rejects"].is_valid())
    some = some.combine_chunks()
    flat, parent = pc.list_flatten(some["rejects"]), pc.list_parent_indices(some["rejects"])
    columns = [some["clip_index"].take(parent), *(pc.struct_field(flat, n) for n in _REJECT.names)]
    return pa.table(columns, names=list(RejectedClip._fields))


def _outside(table: pa.Table, clips: np.ndarray) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(table["clip_index"], pa.array(clips, pa.int64())))


def _counts_of(known: tuple[np.ndarray, np.ndarray], clips: np.ndarray) -> np.ndarray:
    """int64 [m]: of each clip the count in `known` (clips ascending, counts), 0 where absent."""
    index, counts = known
    if not len(index):
        return np.zeros(len(clips), np.int64)
    at = np.minimum(np.searchsorted(index, clips), len(index) - 1)
    return np.where(index[at] == clips, counts[at], 0)
