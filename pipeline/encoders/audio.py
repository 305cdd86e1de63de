"""ResNet encoders for log-mel spectrograms, from torchvision's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet


class StockResNet18(ResNet):
    """torchvision's ResNet-18 with a one-channel 7×7 stem, average-pooled; 512 features.

    spectrogram float [B, 1, mels, frames] → features float [B, 512]. Parameter names are
    torchvision's without ``fc``.
    """

    dim = 512

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.fc = nn.Identity()
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")


class GlobalMaxPool2d(nn.Module):
    """The maximum of every channel's map, kept as a 1×1 map.

    `nn.AdaptiveMaxPool2d` computes the same, but has no counterpart in ONNX.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.max_pool2d(x_BCHW, x_BCHW.shape[-2:])


class SpectrogramResNet(nn.Sequential):
    """A ResNet that keeps small spectrograms large at first: 3×3 stem without stride.

    spectrogram float [B, 1, mels, frames] → features float [B, dim].

    Args:
        stem: maps 1 channel to ``stem_width``.
        widths, blocks: channels and residual blocks of each stage; every stage halves the map.
        pool: over what is left of the map.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_width: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        pool: nn.Module,
    ) -> None:
        super().__init__()
        self.dim = widths[-1]
        self.stem = stem
        inplanes = (stem_width, *widths)
        for number, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            self.add_module(f"layer{number + 1}", _stage(inplanes[number], width, depth))
        self.pool = pool
        self.flatten = nn.Flatten()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(inplanes: int, planes: int, blocks: int) -> nn.Sequential:
    downsample = nn.Sequential(
        nn.Conv2d(inplanes, planes, 1, stride=2, bias=False), nn.BatchNorm2d(planes)
    )
    first = BasicBlock(inplanes, planes, 2, downsample)
    return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(blocks - 1)))


def resnet18() -> StockResNet18:
    return StockResNet18()


def resnet18_vmz() -> SpectrogramResNet:
    """The audio network of FAIR's VMZ (c2 audio_visual_model.py): 3×3 stem to 16 channels with
    bias and neither BatchNorm nor ReLU, three 32-channel blocks, four stages of two, max-pool."""
    return SpectrogramResNet(
        stem=nn.Conv2d(1, 16, 3, padding=1),
        stem_width=16,
        widths=(32, 64, 128, 256, 512),
        blocks=(3, 2, 2, 2, 2),
        pool=GlobalMaxPool2d(),
    )


def resnet_small() -> SpectrogramResNet:
    """One block a stage, at a quarter of the width: for CPUs. 128 features."""
    stem = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
    )
    return SpectrogramResNet(stem, 16, (32, 64, 128), (1, 1, 1), nn.AdaptiveAvgPool2d(1))
