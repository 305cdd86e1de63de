"""(2+1)D convolutions with their middle width padded to a multiple of eight: a candidate.

Tensor cores want widths that are multiples of eight; 45, 230, 460 and 921, torchvision's middle
widths, are none. Weights and function stay: the added channels hold zeros. `convolutions.py`
compares it; no encoder is made of it unless a card shows that it pays.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.models.video.resnet import Conv2Plus1D, R2Plus1dStem

from pipeline.encoders.video import NarrowStem

MULTIPLE = 8


class Padded(nn.Sequential):
    """A convolution over pictures, BatchNorm, ReLU, a convolution over time, and what follows."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        pictures, norm, relu, courses, *others = self
        assert isinstance(pictures, nn.Conv3d)
        more = -pictures.out_channels % MULTIPLE
        if not more:
            return super().forward(x_BCTHW)  # type: ignore[no-any-return]
        outputs = {"weight": F.pad(pictures.weight, (0, 0) * 4 + (0, more))}
        inputs = {"weight": F.pad(courses.weight, (0, 0) * 3 + (0, more))}
        y = relu(_normed(norm, functional_call(pictures, outputs, (x_BCTHW,)), more))
        y = functional_call(courses, inputs, (y,))
        for module in others:
            y = module(y)
        return y


def _normed(norm: nn.Module, x: Tensor, more: int) -> Tensor:
    """As `nn.BatchNorm3d`, its statistics included; a channel of zeros stays one."""
    assert type(norm) is nn.BatchNorm3d
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    mean, variance = F.pad(norm.running_mean, (0, more)), F.pad(norm.running_var, (0, more))
    scale, shift = F.pad(norm.weight, (0, more)), F.pad(norm.bias, (0, more))
    y = F.batch_norm(x, mean, variance, scale, shift, norm.training, norm.momentum, norm.eps)
    if norm.training:
        with torch.no_grad():
            norm.running_mean.copy_(mean[: norm.num_features])
            norm.running_var.copy_(variance[: norm.num_features])
            norm.num_batches_tracked += 1
    return y


def padded(network: nn.Module) -> nn.Module:
    """The same network, whose odd middle widths are padded as it computes."""
    for module in network.modules():
        if isinstance(module, (Conv2Plus1D, R2Plus1dStem, NarrowStem)):
            module.__class__ = Padded
    return network


def check(network: nn.Module) -> None:
    """Features, gradients and statistics in float64 are the network's.

    Raises:
        AssertionError: they are not.
    """
    plain = copy.deepcopy(network).double().cpu()
    other = padded(copy.deepcopy(plain))
    clips = torch.randn(2, 3, 5, 32, 32, dtype=torch.float64)
    clips = clips.to(memory_format=torch.channels_last_3d)
    for one in (plain, other):
        one.train()(clips).square().sum().backward()
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(one, kind)()) for one in (other, plain))
        if kind == "named_parameters":
            ours, theirs = ({n: p.grad for n, p in found.items()} for found in (ours, theirs))
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(clips), plain.eval()(clips))
