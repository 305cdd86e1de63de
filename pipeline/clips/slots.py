"""Which clips a batch holds, and all that decoding needs to know of them.

A batch is a *slot* of an order: its clips and padding follow from its number alone. `JoinSlots`
runs where the tables lie, and puts the rows of slots together: they travel to the decoding tasks,
so that a decode node holds nothing that is as long as the clips table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import ray

from pipeline.clips.table import PublishedClips

NO_CLIP = -1  # index of the padding in a last batch that is not full
LABEL = "label_"  # how the names of label columns begin


@dataclass(frozen=True)
class Order:
    """Which clips, in which order: slot s holds the indices [s·B, (s+1)·B) of the order."""

    length: int  # number of indices
    batch_size: int  # B
    indices: list[ray.ObjectRef] | None = None  # boxed int [length]; None: 0..length-1
    held_out: list[ray.ObjectRef] | None = None  # boxed bool [slots]: not augmented; None: none
    # Boxed bool [length]: where a clip comes for the last time; None: not of interest.
    last: list[ray.ObjectRef] | None = None

    @property
    def num_slots(self) -> int:
        return math.ceil(self.length / self.batch_size)

    def of(self, slot: int) -> np.ndarray:
        """int64 [≤ B]: the clips of a slot, without padding."""
        start, stop = self.bounds(slot)
        if self.indices is None:
            return np.arange(start, stop)
        return np.asarray(ray.get(self.indices[0])[start:stop], np.int64)

    def bounds(self, slot: int) -> tuple[int, int]:
        start = slot * self.batch_size
        return start, min(start + self.batch_size, self.length)

    def is_held_out(self, slot: int) -> bool:
        return self.held_out is not None and bool(ray.get(self.held_out[0])[slot])

    def is_last(self, slot: int) -> np.ndarray:
        """bool [≤ B]: the clips of this slot that do not come again."""
        start, stop = self.bounds(slot)
        if self.last is None:
            return np.zeros(stop - start, bool)
        return np.asarray(ray.get(self.last[0])[start:stop], bool)


@dataclass(frozen=True)
class JoinSlots:
    """The first stage of the clip stream: puts the rows of slots together.

    Rows in and out are groups of slots, each of which one task decodes. In: ``slots``, a list of
    numbers. Out: ``slots``, a list of structs ``slot`` int64, ``held_out`` bool, and ``clips``, a
    list of structs in the order of the batch: ``clip_index``, ``is_last``, `DECODING_COLUMNS`,
    ``label_<name>`` for each of `labels` (-1: none), and ``stored`` (see `ClipStore.entries`) where
    there is a clip store.
    """

    clips: PublishedClips
    order: Order
    labels: Mapping[str, Sequence[ray.ObjectRef]] = field(default_factory=dict)  # boxed int32 [N]

    def __call__(self, numbers: pa.Table) -> pa.Table:
        groups = pa.concat_arrays(numbers["slots"].chunks)
        slots = groups.flatten().to_pylist()
        each = [self.order.of(slot) for slot in slots]
        clips = np.concatenate([np.zeros(0, np.int64), *each])
        rows = self.clips.take(clips)
        columns = {"clip_index": pa.array(clips), **dict(zip(rows.column_names, rows.columns))}
        columns["is_last"] = np.concatenate([np.zeros(0, bool), *map(self.order.is_last, slots)])
        for name, boxed in self.labels.items():
            columns[LABEL + name] = ray.get(boxed[0])[clips].astype(np.int32)
        if self.clips.store is not None:
            columns["stored"] = self.clips.store.entries(clips)
        structs = _one(pa.table(columns).to_struct_array().combine_chunks())
        ends = pa.array(np.cumsum([0, *map(len, each)]), pa.int32())
        made = {
            "slot": groups.flatten(),
            "held_out": pa.array(map(self.order.is_held_out, slots), pa.bool_()),
            "clips": pa.ListArray.from_arrays(ends, structs),
        }
        joined = pa.StructArray.from_arrays([*made.values()], [*made])
        ends = pa.array([0, *np.cumsum(groups.value_lengths())], pa.int32())
        return pa.table({"slots": pa.ListArray.from_arrays(ends, joined)})


def _one(chunked: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(chunked, pa.Array):
        return chunked
    return chunked.chunk(0) if chunked.num_chunks == 1 else pa.concat_arrays(chunked.chunks)
