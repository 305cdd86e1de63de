"""The networks that can be encoders, by name.

A name is one of `ARCHITECTURES`; or that of a network of another package, in `FAMILIES`, such as
``timm:vit_small_patch16_224?img_size=112``; or ``package.module:function``, a network of one's own.
contract.py says what a network must be.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import nn

from pipeline import plain_yaml
from pipeline.errors import UserError

EPS = 1e-5  # of BatchNorm: PyTorch's default, which runs and torchvision's weights are made with


@dataclass(frozen=True)
class Architecture:
    """A network, by the function that makes it.

    The function returns a network with random weights (contract.py). Its module imports stock
    packages only: an export includes a copy of it (``encoder.py``).
    """

    path: str  # ``package.module:function``
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the function
    torchvision: str = ""  # code for torchvision's ``network`` with the same tensors, if it has one
    released_eps: float = EPS  # of BatchNorm in weights (``.pth``, ``.pt``) that others released

    @property
    def function(self) -> str:
        return self.path.rpartition(":")[2]

    def make(self, **more: Any) -> nn.Module:
        """A new network.

        Raises:
            UserError: the function cannot be imported, or does not know what it is asked for.
        """
        module, _, function = self.path.partition(":")
        try:
            maker: Callable[..., nn.Module] = getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            needs = _needs(module)
            raise UserError(
                f"the encoder {self.path} cannot be imported: {error}{needs}"
            ) from error
        if not self.arguments:
            return maker(**more)
        try:
            return maker(**self.arguments, **more)
        except (OSError, ValueError, TypeError, RuntimeError, LookupError) as error:
            said = str(error).strip().partition("\n")[0]
            named = ", ".join(f"{k}={v}" for k, v in self.arguments.items())
            raise UserError(f"the encoder {named} cannot be made: {said}") from error

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
        "r2plus1d_18": Architecture(
            "pipeline.encoders.video:r2plus1d_18", torchvision=_R2PLUS1D_18
        ),
        # The released XDC weights have eps 1e-3 (HumamAlwassel/XDC, model/r2plus1d_18.py). Their
        # momentum 0.9 is Caffe2's, the share of the old statistic: PyTorch's default 0.1.
        "r2plus1d_18_xdc": Architecture(
            "pipeline.encoders.video:r2plus1d_18_xdc", released_eps=1e-3
        ),
        "r2plus1d_small": Architecture("pipeline.encoders.video:r2plus1d_small"),
    },
    "audio": {
        "resnet18": Architecture("pipeline.encoders.audio:resnet18", torchvision=_RESNET18),
        "resnet18_vmz": Architecture("pipeline.encoders.audio:resnet18_vmz"),
        "resnet_small": Architecture("pipeline.encoders.audio:resnet_small"),
    },
}


# Of networks of other packages, by what their names begin with.
FAMILIES = {
    "torchvision": "pipeline.encoders.families.torchvision_networks:network",
    "timm": "pipeline.encoders.families.timm_networks:network",
    "hf": "pipeline.encoders.families.transformers_networks:network",
}


def architecture(modality: str, name: str) -> Architecture:
    """The network that a name stands for; raises UserError for a name that stands for none."""
    known: Mapping[str, Architecture] = ARCHITECTURES[modality]
    if name in known:
        return known[name]
    family, colon, rest = name.partition(":")
    if not colon:
        raise UserError(
            f"there is no {modality} encoder {name!r}; set encoders.{modality} to one of "
            f"{', '.join(known)}, to {', '.join(f'{f}:NAME' for f in FAMILIES)}, or to "
            "package.module:function of your own"
        )
    if family not in FAMILIES:
        return Architecture(name)
    called, _, options = rest.partition("?")
    given = {key: plain_yaml.parsed(value, name) for key, value in parse_qsl(options)}
    return Architecture(FAMILIES[family], {"name": called, **given})


def _needs(module: str) -> str:
    ours = module.startswith("pipeline.encoders.families.")
    return '; install the extra networks (pip install "xdc-ray[networks]")' if ours else ""


def new_encoder(modality: str, name: str) -> nn.Module:
    """One encoder with random weights, drawn from torch's generator; see `architecture`."""
    return architecture(modality, name).make()


def pretrained_encoder(modality: str, name: str) -> nn.Module:
    """One encoder of `FAMILIES` with the weights that its package has for it."""
    return architecture(modality, name).make(pretrained=True)


def shaped(modality: str, name: str) -> nn.Module:
    """A network to load weights into. Of others more than their parameters may hold values."""
    if name in ARCHITECTURES[modality]:
        return blank(modality, name)
    with torch.random.fork_rng(devices=[]):
        return new_encoder(modality, name)


def blank(modality: str, name: str) -> nn.Module:
    """A network of shapes alone, without values or memory (torch's meta device)."""
    with torch.device("meta"):
        return new_encoder(modality, name)
