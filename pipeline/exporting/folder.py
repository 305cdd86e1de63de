"""One exported encoder, a folder in the layout of model hubs.

    video/  model.safetensors         weights, by the names of the network's parameters
            config.json               architecture, dimension, BatchNorm eps, where it comes from
            preprocessor_config.json  how a clip is prepared for the encoder
            README.md                 the model card: how it was trained, and code that loads it
            encoder.py                the network
            *_xdc.py                  code for the Auto classes of transformers (automodel.py)
            torchvision.pt            as asked: a state dict for torchvision's network
            model.onnx                as asked: for onnxruntime and others, weights inside
            model.pt2                 as asked: for `torch.export.load`

config.json is written last: a folder that has one is complete.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import pipeline
from pipeline.config import ClipsConfig
from pipeline.encoders import ARCHITECTURES, save_weights
from pipeline.encoders.architectures import Architecture, architecture, blank
from pipeline.encoders.contract import Input
from pipeline.encoders.frontend import DEVIATION_FLOOR, FLOOR, VARIANCE_FLOOR, mel_settings
from pipeline.encoders.weights import differing_tensors, in_one_line
from pipeline.errors import UserError
from pipeline.exporting import automodel, graphs
from pipeline.exporting.card import model_card
from pipeline.exporting.loading import load_encoder
from pipeline.exporting.training_data import data_summary
from pipeline.run import Run
from pipeline.storage import Location

FORMATS = ("safetensors", "torchvision", "onnx", "torch-export")
GRAPHS = {"onnx": "model.onnx", "torch-export": "model.pt2"}
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+()-]{0,99}")  # and SPDX expressions, in one line
# Those that an export need not write, and config.json, which comes last.
_REPLACED = ("config.json", "torchvision.pt", "model.onnx", "model.pt2", *automodel.FILES)
FILES = (
    *("README.md", "encoder.py", "model.safetensors", "preprocessor_config.json"),
    *_REPLACED,
)


@dataclass(frozen=True)
class Export:
    """What is exported from a run, and how."""

    run: Run
    round: int
    modality: str
    formats: Collection[str] = ("safetensors",)  # of `FORMATS`; safetensors is always written
    front_end: bool = False  # whether the graphs begin before the front end
    license: str = "unknown"  # of the weights, as the model card states it (an SPDX identifier)

    @property
    def architecture(self) -> str:
        """Its name in the settings."""
        return self.run.config.encoders.of(self.modality).name

    @property
    def network(self) -> Architecture:
        return architecture(self.modality, self.architecture)

    def check(self) -> None:
        """Fail at once instead of after minutes.

        Raises:
            UserError: the formats do not fit the architecture, the options or the environment, or
                the encoder was never trained.
        """
        if not _LICENSE.fullmatch(self.license):
            raise UserError(
                f"{self.license!r:.200} is no name of a licence. Take one of the SPDX list, such "
                "as cc-by-4.0"
            )
        heads = [name for update in self._learned for name in update["epochs"][-1]]
        if heads and not any(name.startswith(f"loss_{self.modality}_") for name in heads):
            raise UserError(
                f"the {self.modality} encoder of {self.run.location} has random weights: no clip "
                f"had {self.modality}, so it was not trained. Export the other with --modality"
            )
        if self.front_end and not GRAPHS.keys() & set(self.formats):
            raise UserError(
                "--front-end puts the front end into the graph: add --formats onnx or torch-export"
            )
        if "torchvision" in self.formats and not self.network.torchvision:
            raise UserError(self._no_stock())
        if "onnx" in self.formats:
            graphs.require_onnx()

    def write(self, folder: Location) -> None:
        """Write the folder; delete files of an earlier export that are not replaced.

        Raises:
            UserError: see `check`.
        """
        self.check()
        encoder = load_encoder(self.run.location, self.modality, round=self.round)
        for name in _REPLACED:
            (folder / name).delete()
        save_weights(encoder, folder / "model.safetensors")
        # Always, since they need no package to write and a folder of this layout is taken for one
        # that AutoModel loads.
        (folder / "encoder.py").write_text(self.network.source)
        for name, text in automodel.code(self.modality).items():
            (folder / name).write_text(text)
        if "torchvision" in self.formats:
            file = io.BytesIO()
            torch.save(encoder.state_dict(), file)
            (folder / "torchvision.pt").write_bytes(file.getbuffer())
        if GRAPHS.keys() & set(self.formats):
            graph = graphs.graph(encoder, self.modality, self.run.config.clips, self.front_end)
            program = graphs.trace(graph)
            if "torch-export" in self.formats:
                (folder / "model.pt2").write_bytes(graphs.torch_export_file(graph, program))
            if "onnx" in self.formats:
                (folder / "model.onnx").write_bytes(graphs.onnx_file(graph, program))
        facts = self._facts(encoder)
        input_facts = preprocessing(self.run.config.clips, self.modality, encoder)
        card = model_card(facts, input_facts, self.license, self.network.torchvision)
        (folder / "preprocessor_config.json").write_json(input_facts)
        (folder / "README.md").write_text(card)
        (folder / "config.json").write_json(facts)

    @property
    def _learned(self) -> list[dict[str, Any]]:
        """What the updates of the round say of their training; empty for random encoders."""
        return list(self.run.round(self.round).metrics.read_json().get("updates", []))

    def _no_stock(self) -> str:
        """Why there is no file for torchvision, and what there is instead."""
        stock = [name for name, known in ARCHITECTURES[self.modality].items() if known.torchvision]
        ours = blank(self.modality, self.architecture).state_dict()
        fewest = min((differing_tensors(ours, blank(self.modality, n)) for n in stock), key=len)
        return (
            f"the format torchvision holds {' or '.join(stock)}, which {self.architecture} does "
            "not fit: leave it out (the folder's encoder.py loads model.safetensors) or pretrain "
            f"with encoders.{self.modality}={stock[0]}; {in_one_line(fewest)}"
        )

    def _facts(self, encoder: nn.Module) -> dict[str, Any]:
        """The content of config.json."""
        config = self.run.config
        learned = self._learned
        norms = (m for m in encoder.modules() if isinstance(m, _BatchNorm))
        told = {"optimizer", "lr", "epochs", "batch_size", "workers", "sampling"}
        return {
            "model_type": "xdc-ray",
            **automodel.model_keys(self.modality),
            "xdc_ray_version": pipeline.__version__,
            "modality": self.modality,
            "architecture": self.architecture,
            "dim": encoder.dim,
            "function": self.network.function,
            # Of models of transformers: their configuration, since the hub may be out of reach.
            "function_arguments": getattr(encoder, "arguments", dict(self.network.arguments)),
            "batchnorm_eps": next((norm.eps for norm in norms), None),  # null: it has none
            "stock_architecture": bool(self.network.torchvision),
            "formats": [name for name in FORMATS if name in {"safetensors", *self.formats}],
            "front_end_in_graph": self.front_end,
            "training": {
                "method": config.method,
                "k": config.clustering.k,
                "round": self.round,
                "rounds": config.rounds,
                "clips": max((update["labelled"] for update in learned), default=0),
                "seed": config.seed,
                "encoders": config.encoders.model_dump(mode="json"),
                "learning": config.learning.model_dump(mode="json", include=told),
                "data": data_summary(self.run, self.round),
                "metrics": learned[-1]["epochs"][-1] if learned else {},
            },
        }


def preprocessing(clips: ClipsConfig, modality: str, encoder: object = None) -> dict[str, Any]:
    """The content of preprocessor_config.json, by the names of the run's settings.

    Args:
        encoder: whose attribute ``input`` counts; None: one without.
    """
    wanted = Input.of(encoder, modality)
    return {**_prepared(clips, modality, wanted), "clip": _both(clips)}


def _both(clips: ClipsConfig) -> dict[str, Any]:
    """How long a clip is, and where its sound lies, which takes the settings of both modalities."""
    audio = clips.audio.model_dump(mode="json", include={"window_s", "align"})
    return {**clips.video.model_dump(mode="json", include={"frames", "fps"}), **audio}


def _prepared(clips: ClipsConfig, modality: str, wanted: Input) -> dict[str, Any]:
    if modality == "video":
        return {
            **automodel.processor_keys(modality),
            "kind": wanted.kind,
            "input": "video float32 [B, 3, frames, size, size], RGB",
            "crop": "centre",
            "mean": list(wanted.mean),
            "std": list(wanted.std),
            **clips.video.model_dump(mode="json", exclude={"train_short_side", "flip"}),
        }
    if wanted.kind == "waveform":
        return {
            **automodel.processor_keys(modality),
            "kind": wanted.kind,
            "input": "waveform float32 [B, samples]",
            "channels": 1,
            **clips.audio.model_dump(mode="json", include={"rate", "window_s", "align"}),
            "samples": clips.audio.samples,
            "mel_spectrogram": None,
            "unit": wanted.unit,
            "variance_floor": VARIANCE_FLOOR,
        }
    return {
        **automodel.processor_keys(modality),
        "kind": wanted.kind,
        "input": "spectrogram float32 [B, 1, mels, spectrogram_frames]",
        "channels": 1,
        **clips.audio.model_dump(mode="json"),
        "samples": clips.audio.samples,
        "mel_spectrogram": mel_settings(clips.audio),
        "floor": FLOOR,
        "deviation_floor": DEVIATION_FLOOR,
    }
