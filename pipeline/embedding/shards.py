"""Feature shards: Parquet of ``clip_index`` int64, ``features`` fixed_size_list<float16>[d].

Rows lie in any order over any number of files, each clip at most once; a clip without features is
absent. Imports no torch, so that the tasks that write shards start fast.

A pass that is killed leaves shards and, in ``written/`` of its first modality, a record of each
write that was finished; the next pass makes the rest. What training kept of its own features
(memory_bank.py) lies there in the same way, under names of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from pipeline.clips.rejects import kind_of_loss
from pipeline.clips.table import ClipTable, write_rejects
from pipeline.errors import UserError
from pipeline.storage import Location

BANKED = "bank"  # how names of what training kept begin
Folders = Mapping[str, Location]  # modality → where its features lie
_REJECT = pa.struct([(name, pa.string()) for name in ("modality", "reason", "detail")])
REJECTS = pa.list_(_REJECT)  # why a clip, or a modality of it, has no features


def as_feature_array(features: np.ndarray, present: np.ndarray) -> pa.Array:
    """float16 [B, d] and bool [B] → fixed_size_list<float16>[d] with nulls for absent rows."""
    values, absent = pa.array(features.reshape(-1), pa.float16()), pa.array(~present.astype(bool))
    return pa.FixedSizeListArray.from_arrays(values, features.shape[1], mask=absent)


@dataclass(frozen=True)
class Written:
    """The features that training kept and those of writes that killed passes finished."""

    clips: np.ndarray  # bool [N], of both
    banked: np.ndarray  # bool [N], of training
    passes: int  # how many there were
    counts: Counter[str]  # as in `FeatureSink.counts`

    @classmethod
    def before(cls, out: Folders, rejects: Location, num_clips: int) -> Written:
        """Read the records of a pass into `out`; remove what it wrote without finishing."""
        found = {record.name: record for record in records(out).files(".parquet")}
        prefix = _rejects_prefix(out)
        parts = [part for folder in out.values() for part in folder.files(".parquet")]
        parts += [part for part in rejects.files(".parquet") if part.name.startswith(prefix)]
        for part in parts:
            if part.name.removeprefix(prefix) not in found:
                part.delete()
        clips, banked = np.zeros(num_clips, bool), np.zeros(num_clips, bool)
        counts: Counter[str] = Counter()
        for name, record in found.items():
            table = record.read_table()
            indices = table["clip_index"].to_numpy()
            clips[indices] = True
            banked[indices] = name.startswith(BANKED)
            counts.update(_counts(table))
        passes = {name.split("-")[1] for name in found if not name.startswith(BANKED)}
        return cls(clips, banked, len(passes), counts)


class FeatureSink(Datasink[dict[str, int]]):
    """Writes feature tables as shards, one Parquet file a modality and write task.

    A task that Ray runs again writes the same file names. `counts` are clips, rejected ones, those
    that lost one modality, and features by modality, with those of `written`; its clips `again`
    (int64) are not written twice.
    """

    def __init__(
        self,
        out: Folders,
        rejects: Location,
        clips: ClipTable,
        rows_per_file: int,
        written: Written,
        again: np.ndarray,
    ) -> None:
        self.out, self.rejects, self.clips = out, rejects, clips
        self.rows_per_file, self.again = rows_per_file, again
        self.passes, self.counts = written.passes, written.counts.copy()

    @property
    def min_rows_per_write(self) -> int:
        return self.rows_per_file

    def write(self, blocks: Iterable[Block], ctx: Any) -> dict[str, int]:
        table = pa.concat_tables(BlockAccessor.for_block(block).to_arrow() for block in blocks)
        if len(self.again):
            table = table.filter(pc.invert(pc.is_in(table["clip_index"], pa.array(self.again))))
        name = f"part-{self.passes:03d}-{ctx.task_idx:06d}.parquet"
        rejected = _rejected(table)
        if len(rejected):
            place = self.rejects / f"{_rejects_prefix(self.out)}{name}"
            write_rejects(place, rejected, self.clips, "embed")
        return write_shards(self.out, name, table)

    def on_write_complete(self, write_result: WriteResult[dict[str, int]]) -> None:
        for counts in write_result.write_returns:
            self.counts.update(counts)


def write_shards(out: Folders, name: str, table: pa.Table) -> dict[str, int]:
    """Write one shard a modality, then the record by which they count; return the record's counts.

    Columns: ``clip_index``, features per modality (null: absent), and `REJECTS` (null: none).
    """
    for modality, folder in out.items():
        present = table.filter(table[modality].is_valid())
        if len(present):
            shard = pa.table({"clip_index": present["clip_index"], "features": present[modality]})
            (folder / name).write_table(shard)
    flags = {modality: table[modality].is_valid() for modality in out}
    rejected = _rejected(table)
    for lost in (None, *out):
        of_it = rejected.filter(pc.equal(pc.coalesce(rejected["modality"], ""), lost or ""))
        flags[kind_of_loss(lost)] = pc.is_in(table["clip_index"], of_it["clip_index"])
    record = pa.table({"clip_index": table["clip_index"], **flags})
    (records(out) / name).write_table(record)
    return _counts(record)


def _rejected(table: pa.Table) -> pa.Table:
    """One row a reject: ``clip_index, modality, reason, detail``."""
    some = table.select(["clip_index", "rejects"]).filter(table["rejects"].is_valid())
    some = some.combine_chunks()
    flat, parent = pc.list_flatten(some["rejects"]), pc.list_parent_indices(some["rejects"])
    columns = [some["clip_index"].take(parent), *(pc.struct_field(flat, n) for n in range(3))]
    return pa.table(columns, names=["clip_index", *_REJECT.names])


def finish(out: Folders) -> None:
    """Mark the features as complete and delete the records."""
    for folder in out.values():
        (folder / "DONE").write_text("")
    records(out).delete()


def records(out: Folders) -> Location:
    """Where the records of unfinished features lie."""
    return next(iter(out.values())) / "written"


def _rejects_prefix(out: Folders) -> str:
    return f"embed-{'-'.join(out)}-"


def _counts(record: pa.Table) -> dict[str, int]:
    names = [name for name in record.column_names if name != "clip_index"]
    return {"clips": len(record), **{name: pc.sum(record[name]).as_py() or 0 for name in names}}


def read_features(folder: Location, num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """All features, for evaluation: float16 [N, d] (zeros where absent), and bool [N] present."""
    features: np.ndarray | None = None
    present = np.zeros(num_clips, bool)
    for part in folder.files(".parquet"):
        table = part.read_table()
        indices, column = table["clip_index"].to_numpy(), table["features"].combine_chunks()
        if features is None:
            features = np.zeros((num_clips, column.type.list_size), np.float16)
        features[indices] = column.flatten().to_numpy().reshape(len(table), -1)
        present[indices] = True
    if features is None:
        raise UserError(f"there are no features in {folder}: was every clip rejected?")
    return features, present
