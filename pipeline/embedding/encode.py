"""The encoding stage of a pass: what holds the encoders, and what it lost."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline import encoders
from pipeline.clips import deleted
from pipeline.clips.rejects import Reason, RejectedClip, kind_of_loss
from pipeline.clips.stream import batches_of
from pipeline.config import Config
from pipeline.embedding.shards import REJECTS, as_feature_array, as_row
from pipeline.encoders import raw
from pipeline.runtime.devices import autocast, on_device, use_threads
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.progress import Meter


class Encode:
    """Holds the encoders: a row of decoded slots in, their table of features out."""

    def __init__(
        self,
        weights: Location | None,
        modalities: Sequence[str],
        config: Config,
        device: str,
        meter: Meter,
        losses: Losses | None = None,
    ) -> None:
        use_threads(device)
        if weights is None:
            networks = raw.build(config.clips.audio.mels)
        else:
            networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
            encoders.load_weights(networks, weights)
        self.device = torch.device(device)
        self.networks = networks.eval().to(self.device)
        self.front = encoders.front_ends(networks, config.clips).to(self.device)
        self.modalities, self.precision, self.meter = modalities, config.precision, meter
        self.losses = losses

    def __call__(self, row: dict[str, np.ndarray]) -> pa.Table:
        return as_row(pa.concat_tables(map(self._encoded, batches_of(row))).combine_chunks())

    @torch.inference_mode()
    def _encoded(self, batch: dict[str, Any]) -> pa.Table:
        indices, names = batch["clip_index"], json.loads(batch["names"])
        rejects = RejectedClip.loads(batch["rejects"])
        columns: dict[str, pa.Array] = {"clip_index": pa.array(indices, pa.int64())}
        for modality in self.modalities:
            values, present = self._features(modality, batch[modality]), batch[f"has_{modality}"]
            finite = np.isfinite(values).all(axis=1)
            for place in np.flatnonzero(present & ~finite).tolist():
                rejects.append(_not_finite(int(indices[place]), names[place], modality))
            columns[modality] = as_feature_array(np.nan_to_num(values), present & finite)
        lost: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for reject in rejects:
            lost[reject.clip_index].append(reject._asdict())
        columns["rejects"] = pa.array(map(lost.get, indices.tolist()), REJECTS)
        table = pa.table(columns).filter(pa.array(indices >= 0))
        losses = Counter(kind_of_loss(reject.modality) for reject in rejects)
        self.meter.add(None, done=len(table), **losses)
        metrics.gpu_memory("embed")
        if self.losses is not None:
            self.losses.add(reject for reject in rejects if reject.modality is None)
        return table

    def _features(self, modality: str, clips: np.ndarray) -> np.ndarray:
        """float32 [B, d]."""
        tensor = on_device(clips, self.device)
        with autocast(self.device, self.precision):
            return self.networks[modality](self.front[modality](tensor)).float().cpu().numpy()


_of_this_process: tuple[str, Encode] | None = None  # and the pass that it is for


def encode_here(row: dict[str, np.ndarray], of: str, given: tuple[Any, ...]) -> pa.Table:
    """A task: its process makes an `Encode` of what is given and keeps it while the pass lasts."""
    global _of_this_process
    if _of_this_process is None or _of_this_process[0] != of:
        _of_this_process = None  # two at a time would need twice the memory
        _of_this_process = of, Encode(*given)
    return _of_this_process[1](row)


def _not_finite(clip: int, named: Sequence[str], modality: str) -> RejectedClip:
    (uri, clip_id), what = named, "the encoder gives no finite numbers for it"
    return RejectedClip(clip, uri, clip_id, modality, Reason.NOT_FINITE.value, what)


@dataclass
class Losses:
    """What one process lost; ends a pass early that has lost too much already."""

    title: str  # of the pass
    clips: int  # of the pass
    allowed: float  # share of them, `clips.max_rejected`
    before: float  # share that the pass before this one lost

    def __post_init__(self) -> None:
        self._lost: deleted.Losses = Counter()

    def add(self, rejects: Iterable[RejectedClip]) -> None:
        """Raises Outage if this process alone has lost more than the whole pass may lose."""
        self._lost.update(deleted.loss(reject.uri, reject.reason) for reject in rejects)
        deleted.check_media(self.title, self._lost, self.clips, self.allowed, self.before)
