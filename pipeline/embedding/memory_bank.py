"""Features that training computed anyway, kept so that the next embedding pass skips them.

As in DeepCluster-v2 (facebookresearch/swav, main_deepclusterv2.py), a clip's features are those of
the last time that training saw it: of an augmented sample, in train mode, by an encoder that still
changed a little. Held-out clips' are as an embedding pass makes them. They lie where that pass
would write them (shards.py); the clips that training did not see are left to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.clips.rejects import RejectedClip
from pipeline.embedding.shards import REJECTS, as_feature_array, write_shard
from pipeline.embedding.written import BANKED, Folders, delete_shards, shard_names


class MemoryBank:
    """One worker's part.

    Args:
        rows_per_file: kept on the device until there are so many.
        slot: where the training goes on; what was kept from there on is removed, by rank 0.
    """

    def __init__(self, out: Folders, rows_per_file: int, rank: int, slot: int) -> None:
        self.out, self.rows_per_file, self.rank = out, rows_per_file, rank
        self._held: list[tuple[int, dict[str, torch.Tensor]]] = []  # by slot
        if rank == 0:
            for folder in out.values():
                names = shard_names(folder)
                stale = [n for n in names if slot == 0 or int(n.split("-")[1]) >= slot]
                delete_shards(folder, stale)

    def add(self, batch: Mapping[str, Any], features: Mapping[str, torch.Tensor]) -> None:
        """Features float [B, d] of a batch as `DecodeSlots` makes it."""
        slot, clips = int(batch["slot"]), batch["clip_index"]
        rejects = RejectedClip.loads(batch["rejects"])
        rejected = [reject.clip_index for reject in rejects if reject.modality is None]
        rows = np.flatnonzero(batch["is_last"] & ~np.isin(clips, rejected))
        if not len(rows):
            return
        names = ["clip_index", *(f"has_{m}" for m in self.out)]
        held = {name: torch.from_numpy(batch[name][rows]) for name in names}
        held |= {m: features[m][torch.from_numpy(rows)].half() for m in self.out}
        self._held.append((slot, held))
        if sum(len(held["clip_index"]) for _, held in self._held) >= self.rows_per_file:
            self.flush()

    def flush(self) -> None:
        """Write what is held; before every checkpoint, so that none falls into a file."""
        if not self._held:
            return
        first, batches = self._held[0][0], [held for _, held in self._held]
        whole = {n: torch.cat([held[n] for held in batches]).cpu().numpy() for n in batches[0]}
        self._held = []
        table = {"clip_index": pa.array(whole["clip_index"], pa.int64())}
        table |= {m: as_feature_array(whole[m], whole[f"has_{m}"]) for m in self.out}
        table["rejects"] = pa.nulls(len(table["clip_index"]), REJECTS)
        name = f"{BANKED}-{first:09d}-{self.rank:04d}.parquet"
        for modality, folder in self.out.items():
            write_shard(folder, modality, name, pa.table(table), None)
