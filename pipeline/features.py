"""Feature shards: Parquet of ``clip_index`` int64, ``features`` fixed_size_list<float16>[d].

Rows lie in any order over any number of files, each clip at most once; a clip without features is
absent. Imports no torch, so that the tasks that write shards start fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from pipeline.clips.table import ClipTable, write_rejects
from pipeline.errors import UserError
from pipeline.storage import Location


def as_feature_array(features: np.ndarray, present: np.ndarray) -> pa.Array:
    """float16 [B, d] and bool [B] → fixed_size_list<float16>[d] with nulls for absent rows."""
    values = pa.array(features.reshape(-1), pa.float16())
    return pa.FixedSizeListArray.from_arrays(
        values, features.shape[1], mask=pa.array(~present.astype(bool))
    )


class FeatureSink(Datasink[dict[str, int]]):
    """Writes feature tables as shards, one Parquet file a modality and write task.

    A task that Ray runs again writes the same file names.
    """

    def __init__(
        self, out: dict[str, Location], refused: Location, clips: ClipTable, rows_per_file: int
    ) -> None:
        self.out, self.refused, self.clips = out, refused, clips
        self.rows_per_file = rows_per_file
        self.counts: dict[str, int] = {}

    @property
    def min_rows_per_write(self) -> int:
        return self.rows_per_file

    def write(self, blocks: Iterable[Block], ctx: Any) -> dict[str, int]:
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        table = pa.concat_tables(tables)
        name = f"part-{ctx.task_idx:06d}.parquet"
        counts = {"clips": len(table)}
        for modality, folder in self.out.items():
            present = table.filter(table[modality].is_valid())
            counts[modality] = len(present)
            if len(present):
                shard = pa.table(
                    {"clip_index": present["clip_index"], "features": present[modality]}
                )
                (folder / name).write_table(shard)
        failed = table.filter(table["reason"].is_valid())
        counts["rejected"] = len(failed)
        if len(failed):
            write_rejects(self.refused / f"embed-{name}", failed, self.clips, "embed")
        return counts

    def on_write_complete(self, write_result: WriteResult[dict[str, int]]) -> None:
        for counts in write_result.write_returns:
            for key, value in counts.items():
                self.counts[key] = self.counts.get(key, 0) + value


def read_features(folder: Location, num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Feature shards as one array: float16 [N, d] (zeros where absent) and bool [N] present.

    For evaluation: it holds all features of one modality.
    """
    features: np.ndarray | None = None
    present = np.zeros(num_clips, bool)
    for part in folder.files(".parquet"):
        table = part.read_table()
        column = table["features"].combine_chunks()
        rows = column.flatten().to_numpy().reshape(len(table), -1)
        if features is None:
            features = np.zeros((num_clips, rows.shape[1]), np.float16)
        indices = table["clip_index"].to_numpy()
        features[indices] = rows
        present[indices] = True
    if features is None:
        raise UserError(f"there are no features in {folder}: was every clip rejected?")
    return features, present
