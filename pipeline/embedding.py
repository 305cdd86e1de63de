"""Encoders over all clips: Ray Data decodes, an actor pool encodes, shards are written.

    clips → decode (tasks) → encode (actors, one a GPU) → features/<modality>/*.parquet

Every clip is taken at the middle of its window, centre crop, encoders in eval mode. A clip ends in
the features of each modality it has, or in the round's rejects with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from pipeline import encoders
from pipeline.clips.spectrogram import LogMel
from pipeline.clips.stream import DecodeSlot, Order, stream
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.clips.transforms import FramesToInput
from pipeline.config import Config
from pipeline.devices import autocast, choose_device, use_threads
from pipeline.encoders import raw
from pipeline.features import FeatureSink, as_feature_array
from pipeline.progress import Meter, Progress
from pipeline.session import decode_cost
from pipeline.storage import Location


def embed(
    clips: ClipTable,
    published: PublishedClips,
    weights: Location | None,
    out: dict[str, Location],
    refused: Location,
    config: Config,
    title: str,
) -> dict[str, Any]:
    """Features of every clip, for the modalities in `out`, decoded once for all of them.

    Args:
        weights: safetensors of the encoders; None: features without learning (encoders/raw.py).
        out: modality → folder of the feature shards: Parquet with ``clip_index`` int64 and
            ``features`` fixed_size_list<float16>[d], rows in any order.
        refused: folder for the rejects of this pass.

    Returns:
        Counts: clips, rejected, and features per modality; and the seconds it took.
    """
    for folder in out.values():
        folder.delete()
    order = Order(len(clips), min(config.embedding.batch_size, len(clips)))
    modalities = tuple(out)
    device = choose_device(config.resources)
    # A cluster that has no GPU yet may still bring one up; the device choice is the user's.
    pool = ActorPoolStrategy(
        min_size=config.embedding.actors,
        max_size=max(config.embedding.actors, config.embedding.max_actors),
    )
    with Progress(title, len(clips), "clips") as progress:
        decoded = stream(
            published,
            order,
            config.clips,
            modalities,
            cost=decode_cost(config.resources, config.clips.decoder),
        )
        features = decoded.map_batches(
            Encode,
            fn_constructor_args=(weights, modalities, config, device, progress.meter),
            batch_size=1,
            compute=pool,
            num_cpus=0.5,
            num_gpus=1 if device == "cuda" else 0,
        )
        sink = FeatureSink(out, refused, clips, config.embedding.rows_per_file)
        features.write_datasink(sink)
    for folder in out.values():
        (folder / "DONE").write_text("")
    return {**sink.counts, "seconds": round(progress.seconds, 2)}


class Encode:
    """The encoding stage, an actor: one decoded batch in, one table of features out."""

    def __init__(
        self,
        weights: Location | None,
        modalities: Sequence[str],
        config: Config,
        device: str,
        meter: Meter,
    ) -> None:
        use_threads(device)
        if weights is None:
            networks = raw.build()
        else:
            networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
            encoders.load_weights(networks, weights)
        self.device = torch.device(device)
        self.networks = networks.eval().to(self.device)
        self.front = {
            "video": FramesToInput(config.clips.video).to(self.device),
            "audio": LogMel(config.clips.audio).to(self.device),
        }
        self.modalities = modalities
        self.precision = config.embedding.precision
        self.meter = meter

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        indices = batch["clip_index"][0]
        refused = {index: (reason, detail) for index, reason, detail in _rejects(batch)}
        columns: dict[str, pa.Array] = {"clip_index": pa.array(indices, pa.int64())}
        for modality in self.modalities:
            features = self._encode(modality, batch[modality][0])
            columns[modality] = as_feature_array(features, batch[f"has_{modality}"][0])
        for position, name in enumerate(("reason", "detail")):
            values = [refused[i][position] if i in refused else None for i in indices.tolist()]
            columns[name] = pa.array(values, pa.string())
        table = pa.table(columns)
        present = int((indices >= 0).sum())
        self.meter.add(done=present, rejects=len(refused))
        return table.filter(pa.array(indices >= 0))

    def _encode(self, modality: str, data: np.ndarray) -> np.ndarray:
        """float16 [B, d]; rows of absent clips are meaningless."""
        tensor = torch.from_numpy(np.array(data)).to(self.device)
        with autocast(self.device, self.precision):
            features = self.networks[modality](self.front[modality](tensor))
        return features.float().cpu().numpy().astype(np.float16)


def _rejects(batch: dict[str, np.ndarray]) -> list[tuple[int, str, str]]:
    return [tuple(reject) for reject in json.loads(str(batch["rejects"][0]))]


@ray.remote
def warm_batchnorm(
    weights: Location, published: PublishedClips, order: Order, config: Config
) -> int:
    """Set the BatchNorm statistics of random encoders to those of a few batches of clips.

    Whether that helps the first clustering depends on the data (facebookresearch/selavi does it):
    it helps the pictures of the generated world, and on real speech the audio clusters' NMI with
    the words falls from 0.47 to 0.38. Writes `weights`; returns the number of batches used.
    """
    device = torch.device("cpu")
    use_threads("cpu")
    networks = encoders.build(config.encoders, seed=config.seed)
    front = {"video": FramesToInput(config.clips.video), "audio": LogMel(config.clips.audio)}
    for module in networks.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain average over the batches
    decode = DecodeSlot(published, order, config.clips, ("video", "audio"), None, {})
    for slot in range(order.num_slots):
        batch = decode({"id": np.array([slot])})
        for modality, network in networks.items():
            rows = batch[modality][0][batch[f"has_{modality}"][0]]
            if len(rows) > 1:
                with torch.no_grad(), autocast(device, "float32"):
                    network(front[modality](torch.from_numpy(rows)))
    encoders.save_weights(networks, weights)
    return order.num_slots
