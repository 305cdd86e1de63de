"""The bytes of a run: what it keeps on storage, and what a node's object store must hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.clips.slots import Order
from pipeline.clips.store import ENTRY
from pipeline.clips.stream import Slots
from pipeline.clips.table import PublishedClips
from pipeline.embedding.executors import IN_FLIGHT
from pipeline.methods import MODALITIES
from pipeline.planning.forecast import RunModel
from pipeline.planning.timeline import ClipPass, LabelPass, Timeline

_INDEX_BYTES = 8  # of a clip's row beside its features
# A clip's id beside its label: 16 random hexadecimal digits, compressed, take 9.7 bytes.
_ID_BYTES = 10
_STATES = {"sgd": 1, "lars": 1, "adamw": 2}  # tensors of an optimiser, a parameter
_ROWS_A_TASK = 2  # one that is being made, one that waits


@dataclass(frozen=True)
class Needs:
    """Bytes."""

    features: int  # at the same time
    labels: int
    encoders: int  # of all rounds
    checkpoint: int  # while an update learns
    clip_store: int
    driver: int  # in the object store of the driver's node: what is as long as the clips table
    batches: int  # in that of a node that decodes
    device: int  # in that of a node that encodes and trains

    @property
    def at_rest(self) -> int:
        return self.features + self.labels + self.encoders + self.checkpoint + self.clip_store


def needs_of(model: RunModel, clips: PublishedClips) -> Needs:
    """Of what is left of a run; `clips` are any of its clips."""
    config, measured, counts = model.config, model.measured, model.counts
    timeline = Timeline(config, model.method, model.last or 0, set(model.clustered))
    pieces = list(timeline.pieces())
    of_a_pass = {
        m: counts.with_all([m]) * (2 * dim + _INDEX_BYTES) for m, dim in measured.dims.items()
    }
    kept = [m for piece in pieces if isinstance(piece, ClipPass) for m in piece.modalities]
    # Those of a round go when the next one is done.
    features = sum(of_a_pass[m] for m in kept)
    if not config.embedding.keep:
        features = min(features, 2 * sum(of_a_pass.values()))
    clusterings = sum(isinstance(piece, LabelPass) for piece in pieces)
    labels = clusterings * round(counts.indexed * (measured.kmeans.label_bytes + _ID_BYTES))
    weights, updates = measured.weights_bytes, len(model.method.updates)
    stored = measured.store.clip_bytes if measured.store and config.store.enabled else 0.0
    row = _row_bytes(model, clips)
    tasks = max((kind.cores for kind in model.fleet.decoders), default=1) / (
        config.resources.decode_cpus
    )
    order = max((u.drawn + u.held_clips for u in model.updates.values()), default=0)
    each = measured.table_bytes + 4 * len(model.method.clusterings)
    each += ENTRY.itemsize if config.store.enabled else 0
    return Needs(
        features=features,
        labels=labels,
        encoders=weights * (1 + model.rounds * (1 + updates)),
        checkpoint=weights * (1 + _STATES[config.learning.optimizer]),
        clip_store=round(counts.indexed * stored),
        driver=round(counts.indexed * each) + order * (np.dtype(np.int32).itemsize + 1),
        batches=round(tasks * _ROWS_A_TASK * row),
        device=IN_FLIGHT * row,
    )


def _row_bytes(model: RunModel, clips: PublishedClips) -> int:
    """Of the decoded batches that one task makes, of an embedding pass or of an update."""
    config, found = model.config, 0
    for size, count in (
        (config.embedding.batch_size, model.counts.chosen),
        (config.learning.batch_size, max((u.drawn for u in model.updates.values()), default=1)),
    ):
        slots = Slots(clips, Order(count, size), config.clips, MODALITIES)
        found = max(found, slots.row_bytes(slots.order.num_slots))
    return found
