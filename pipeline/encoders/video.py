"""R(2+1)D video encoders, from torchvision's blocks.

Parameter names equal those of `torchvision.models.video.r2plus1d_18` without its ``fc``, so that
weights move both ways.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem


class FlatConv3d(nn.Conv3d):
    """A 1×k×k or k×1×1 convolution, computed as the two-dimensional one that it is.

    Of clips with the channels last, pictures [B·T, H, W, C] and the points' courses in time
    [B, T, H·W, C] are views. Two-dimensional kernels serve them better (benchmarks/README.md).
    Clips of another layout go the way of `nn.Conv3d`, which gives the same up to rounding.
    """

    @staticmethod
    def can_replace(conv: nn.Conv3d) -> bool:
        """Whether it is flat, and of the kind that R(2+1)D has: no bias, groups, dilation."""
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            return False
        shape = list(zip(conv.kernel_size, conv.stride, conv.padding))
        flat = (1, 1, 0)  # along this axis nothing happens
        is_plain = conv.groups == 1 and conv.bias is None and set(conv.dilation) == {1}
        return is_plain and (shape[0] == flat or shape[1:] == [flat, flat])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not x_BCTHW.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(x_BCTHW)
        stride, padding = self.stride, self.padding
        assert not isinstance(padding, str)
        if self.kernel_size[0] == 1:
            pictures, kernel = x_BCTHW.transpose(1, 2).flatten(0, 1), self.weight.squeeze(2)
            y = F.conv2d(pictures, kernel, None, stride[1:], padding[1:])
            return y.unflatten(0, (x_BCTHW.shape[0], x_BCTHW.shape[2])).transpose(1, 2)
        courses, kernel = x_BCTHW.flatten(3), self.weight.squeeze(4)
        y = F.conv2d(courses, kernel, None, (stride[0], 1), (padding[0], 0))
        return y.unflatten(3, x_BCTHW.shape[3:])


class Conv2Plus1DPerConv(Conv2Plus1D):
    """A (2+1)D convolution whose middle width follows from its own widths, not its block's.

    Caffe2's builder and so the released XDC weights use floor(27·in·out / (9·in + 3·out))
    (HumamAlwassel/XDC, model/r2plus1d_18.py). torchvision computes one width for both convolutions
    of a block, so in layers 2 to 4 the second one of the first block is narrower there (230 / 460 /
    921 channels, not 288 / 576 / 1152).
    """

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1
    ) -> None:
        midplanes = (27 * in_planes * out_planes) // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


class NarrowStem(nn.Sequential):
    """The R(2+1)D stem at another width: 1×7×7 and 3×1×1 convolutions, stride (1, 2, 2)."""

    def __init__(self, width: int) -> None:
        middle = (147 * 3 * width) // (49 * 3 + 3 * width)
        super().__init__(
            nn.Conv3d(3, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )


class R2Plus1D(nn.Sequential):
    """video float [B, 3, T, H, W], normalised → features float [B, dim], average-pooled.

    Args:
        stem: maps 3 channels to ``widths[0]``.
        widths: channels of the four stages; the last one is the feature's dimension.
        blocks: residual blocks of each stage.
        conv: the convolution inside every block.
    """

    def __init__(
        self, stem: nn.Module, widths: Sequence[int], blocks: int, conv: type[Conv2Plus1D]
    ) -> None:
        super().__init__()
        self.dim = widths[-1]
        self.stem = stem
        inplanes = (widths[0], *widths)
        for number, width in enumerate(widths):
            stage = _stage(inplanes[number], width, blocks, 2 if number else 1, conv)
            self.add_module(f"layer{number + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.flatten = nn.Flatten()
        for module in self.modules():  # He initialisation by fan-out, as torchvision's
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if FlatConv3d.can_replace(module):
                    module.__class__ = FlatConv3d  # a new one would draw from torch's generator


def _stage(
    inplanes: int, planes: int, blocks: int, stride: int, conv: type[Conv2Plus1D]
) -> nn.Sequential:
    downsample = None
    if stride != 1 or inplanes != planes:
        downsample = nn.Sequential(
            nn.Conv3d(inplanes, planes, 1, stride=conv.get_downsample_stride(stride), bias=False),
            nn.BatchNorm3d(planes),
        )
    first = BasicBlock(inplanes, planes, conv, stride, downsample)
    return nn.Sequential(first, *(BasicBlock(planes, planes, conv) for _ in range(blocks - 1)))


def r2plus1d_18() -> R2Plus1D:
    """torchvision's widths: 31.3 M parameters, 512 features."""
    return R2Plus1D(R2Plus1dStem(), (64, 128, 256, 512), 2, Conv2Plus1D)


def r2plus1d_18_xdc() -> R2Plus1D:
    """The released XDC weights' widths: 33.2 M parameters, 512 features."""
    return R2Plus1D(R2Plus1dStem(), (64, 128, 256, 512), 2, Conv2Plus1DPerConv)


def r2plus1d_small() -> R2Plus1D:
    """One block a stage at an eighth to a quarter of the width: for CPUs. 128 features."""
    return R2Plus1D(NarrowStem(16), (16, 32, 64, 128), 1, Conv2Plus1DPerConv)
