"""The settings of the encoders."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from pipeline.section import Address, Names, Section


class Encoder(Section):
    """One encoder. ``encoders.video=NAME`` is short for ``encoders.video.name=NAME``."""

    # Of pipeline.encoders; torchvision:NAME, timm:NAME or hf:NAME of other packages; or
    # package.module:function, a network of yours (see docs/extend.md).
    name: str
    # Weights to begin with: a run (runs/a, or runs/a#2 for its round 2), a folder of
    # jobs/export.py, a .safetensors, .pth or .pt file, or pretrained: those that torchvision,
    # timm or the hub have for this name. Empty: random ones.
    start: Address = ""
    # What is never trained: parameters whose names begin so, such as [stem, layer1].
    frozen: Names = ()

    @model_serializer(mode="wrap")
    def _short(self, dump: SerializerFunctionWrapHandler) -> Any:
        """The name alone where that is all: as runs saved it before there was anything else."""
        dumped = dump(self)
        return dumped if self.start or self.frozen else dumped["name"]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class VideoEncoder(Encoder):
    # r2plus1d_18: torchvision's widths; r2plus1d_18_xdc: the released XDC weights' widths.
    # r2plus1d_small: for CPUs.
    name: str = "r2plus1d_18_xdc"


class AudioEncoder(Encoder):
    # resnet18: stock with a one-channel stem; resnet18_vmz: the stem of FAIR's audio network.
    # resnet_small: for CPUs.
    name: str = "resnet18_vmz"


class EncoderConfig(Section):
    """The networks, and what they begin with."""

    video: Annotated[VideoEncoder, BeforeValidator(_named)] = VideoEncoder()
    audio: Annotated[AudioEncoder, BeforeValidator(_named)] = AudioEncoder()
    # Batches of clips that set the random encoders' BatchNorm statistics before the first
    # clustering; 0: they stay at mean 0 and variance 1.
    warm_batches: Annotated[int, Field(ge=0)] = 8

    def of(self, modality: str) -> Encoder:
        found: Encoder = getattr(self, modality)
        return found

    @property
    def started(self) -> list[str]:
        """The modalities that do not begin with random weights."""
        return [modality for modality in ("video", "audio") if self.of(modality).start]
