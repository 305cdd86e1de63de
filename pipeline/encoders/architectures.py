"""The networks that can be encoders, by name.

To add one, write a function in a file of its own and add it to `ARCHITECTURES`. An encoder outside
this package needs no entry: ``encoders.video=package.module:function`` names the function.

| modality | input | features |
|---|---|---|
| video | float32 [B, 3, T, H, W], normalised | float32 [B, dim] |
| audio | float32 [B, 1, mels, frames], log-mel | float32 [B, dim] |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import EncoderConfig
from pipeline.errors import UserError

EPS = 1e-5  # of BatchNorm: PyTorch's default, which runs and torchvision's weights are made with


@dataclass(frozen=True)
class Architecture:
    """A network, by the function that makes it.

    The function takes nothing and returns a network with random weights and the attribute ``dim``.
    Its module imports stock packages only: an export includes a copy of it (``encoder.py``).
    """

    path: str  # ``package.module:function``
    torchvision: str = ""  # code for torchvision's ``network`` with the same tensors, if it has one
    released_eps: float = EPS  # of BatchNorm in weights (``.pth``, ``.pt``) that others released

    @property
    def function(self) -> str:
        return self.path.rpartition(":")[2]

    def make(self) -> nn.Module:
        """A new network; raises UserError if the function cannot be imported."""
        module, _, function = self.path.partition(":")
        try:
            maker: Callable[[], nn.Module] = getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise UserError(f"the encoder {self.path} cannot be imported: {error}") from error
        return maker()

    @property
    def source(self) -> str:
        """The code of the function's module."""
        return inspect.getsource(import_module(self.path.partition(":")[0]))


_R2PLUS1D_18 = """\
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.video import r2plus1d_18

network = r2plus1d_18(weights=None)
network.fc = nn.Identity()"""

_RESNET18 = """\
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet18

network = resnet18(weights=None)
network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
network.fc = nn.Identity()"""

ARCHITECTURES: dict[str, dict[str, Architecture]] = {
    "video": {
        "r2plus1d_18": Architecture("pipeline.encoders.video:r2plus1d_18", _R2PLUS1D_18),
        # The released XDC weights have eps 1e-3 (HumamAlwassel/XDC, model/r2plus1d_18.py). Their
        # momentum 0.9 is Caffe2's, the share of the old statistic: PyTorch's default 0.1.
        "r2plus1d_18_xdc": Architecture("pipeline.encoders.video:r2plus1d_18_xdc", "", 1e-3),
        "r2plus1d_small": Architecture("pipeline.encoders.video:r2plus1d_small"),
    },
    "audio": {
        "resnet18": Architecture("pipeline.encoders.audio:resnet18", _RESNET18),
        "resnet18_vmz": Architecture("pipeline.encoders.audio:resnet18_vmz"),
        "resnet_small": Architecture("pipeline.encoders.audio:resnet_small"),
    },
}


def architecture(modality: str, name: str) -> Architecture:
    """From `ARCHITECTURES`, or a ``package.module:function``; raises UserError for other names."""
    known: Mapping[str, Architecture] = ARCHITECTURES[modality]
    if name in known:
        return known[name]
    if ":" not in name:
        raise UserError(
            f"there is no {modality} encoder {name!r}; set encoders.{modality} to one of "
            f"{', '.join(known)}, or to package.module:function of your own"
        )
    return Architecture(name)


def new_encoder(modality: str, name: str) -> nn.Module:
    """One encoder with random weights, drawn from torch's generator; see `architecture`."""
    return architecture(modality, name).make()


def blank(modality: str, name: str) -> nn.Module:
    """A network of shapes alone, without values or memory (torch's meta device)."""
    with torch.device("meta"):
        return new_encoder(modality, name)


def check_encoders(config: EncoderConfig, batch_size: int) -> None:
    """Raise UserError if a network cannot be made, lacks its ``dim``, or needs larger batches."""
    for modality in ARCHITECTURES:
        name = getattr(config, modality)
        network = blank(modality, name)
        if not isinstance(getattr(network, "dim", None), int):
            raise UserError(
                f"the encoder {name} has no attribute dim, the number of its features: set it in "
                "the network's __init__"
            )
        if batch_size < 2 and any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise UserError(
                f"learning.batch_size={batch_size} gives the BatchNorm of the encoder {name} no "
                "variance: set it to at least 2"
            )
