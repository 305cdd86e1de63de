"""An encoder of xdc-ray for `transformers.AutoModel`.

The network is what a function of encoder.py makes. Weights are stored by the network's own names;
inside the model their names begin with ``xdc_network.``, which loading adds and saving removes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

# By this line transformers copies or downloads encoder.py, too. Its functions have other names in
# every export, so only the module's name is imported.
from .encoder import __name__ as _ENCODER

# transformers 4 puts folders of one name into one place, and would go on with the first's module.
_encoder = importlib.reload(sys.modules[_ENCODER])


# In this file, which has encoder.py beside it: transformers keeps one model class for each config
# class, and tells those of two folders of one name apart by the files that they import.
class XdcConfig(PretrainedConfig):
    """Every key of config.json, as an attribute.

    The model reads these: ``function`` and ``function_arguments`` (what makes the network, in
    encoder.py), ``batchnorm_eps`` (null: the network's own), ``dim`` (of the features).
    """

    model_type = "xdc-ray"


class XdcVideoConfig(XdcConfig):
    pass


class XdcAudioConfig(XdcConfig):
    pass


def network_of(config: XdcConfig) -> nn.Module:
    """The network that config.json describes, with random weights, on the CPU."""
    make = getattr(_encoder, config.function)
    # transformers makes models without memory (the meta device). Constants that a network computes
    # would have no values there, and no file holds them.
    with torch.device("cpu"):
        network: nn.Module = make(**config.function_arguments)
    for module in network.modules():
        if isinstance(module, _BatchNorm) and config.batchnorm_eps is not None:
            module.eps = config.batchnorm_eps
    return network


def _constants(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that no file of weights holds, by name."""
    stored = network.state_dict().keys()
    return {n: b.detach().clone() for n, b in network.named_buffers() if n not in stored}


class XdcModel(PreTrainedModel):
    """What both encoders share. Its `forward` takes the network's input, and gives features."""

    base_model_prefix = "xdc_network"

    def __init__(self, config: XdcConfig) -> None:
        super().__init__(config)
        self.xdc_network = network_of(config)
        self._network_constants = _constants(self.xdc_network)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As of every model; constants of the network are put back, which loading leaves empty."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        buffers = dict(model.xdc_network.named_buffers())
        for name, value in model._network_constants.items():
            buffers[name].copy_(value)
        return loaded

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As of every model; weights are stored by the network's own names."""
        kept: Mapping[str, Tensor] = kwargs.pop("state_dict", None) or self.state_dict()
        prefix = f"{self.base_model_prefix}."
        kwargs["state_dict"] = {n.removeprefix(prefix): tensor for n, tensor in kept.items()}
        return super().save_pretrained(*args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """None of transformers' own: the network comes with its initialisation."""

    def _features(self, media: Tensor, return_dict: bool | None) -> Any:
        features = self.xdc_network(media.to(self.device, self.dtype)).float()
        if return_dict is False:
            return (features,)
        return BaseModelOutputWithPooling(pooler_output=features)


class XdcVideoModel(XdcModel):
    config_class = XdcVideoConfig
    main_input_name = "pixel_values"

    def forward(
        self, pixel_values: Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """pixel_values float [B, 3, T, H, W], normalised → pooler_output float32 [B, dim]."""
        return self._features(pixel_values, return_dict)


class XdcAudioModel(XdcModel):
    config_class = XdcAudioConfig
    main_input_name = "input_values"

    def forward(
        self, input_values: Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """input_values float [B, 1, mels, frames], log-mel → pooler_output float32 [B, dim]."""
        return self._features(input_values, return_dict)
