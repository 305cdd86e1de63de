from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Network = TypeVar("Network", bound=nn.Module)


def randomise(network: Network, scale: float = 1.0) -> Network:
    """Give every BatchNorm statistics and weights of its own: fresh ones hide what is lost.

    Args:
        scale: of the running variances, 0.5 to 1.5 times it.
    """
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=draw)
                module.running_var.uniform_(0.5 * scale, 1.5 * scale, generator=draw)
                module.weight.uniform_(0.5, 1.0, generator=draw)
                module.bias.normal_(0, 0.1, generator=draw)
    return network
