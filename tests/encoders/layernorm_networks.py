"""Encoders without BatchNorm, as someone outside the package writes them; exports bring a copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two strided convolutions, each behind a LayerNorm over channels; average-pooled.

    Args:
        conv: of 2 or 3 dimensions.
        channels: of the input.
    """

    input: dict[str, object]

    def __init__(self, conv: type[nn.Module], channels: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.first = conv(channels, 8, 3, stride=2, padding=1)
        self.second = conv(8, dim, 3, stride=2, padding=1)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(dim)])

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip((self.first, self.second), self.norms):
            x = norm(torch.relu(conv(x)).movedim(1, -1)).movedim(-1, 1)
        return x.flatten(2).mean(dim=2)


def video_convnet() -> ConvNet:
    return ConvNet(nn.Conv3d, 3, 24)


def audio_convnet() -> ConvNet:
    return ConvNet(nn.Conv2d, 1, 16)


def wants_nonsense() -> ConvNet:
    network = video_convnet()
    network.input = {"kind": "frames", "colour": "green"}
    return network


def gives_too_much() -> ConvNet:
    network = ConvNet(nn.Conv3d, 3, 16)
    network.dim = 8
    return network
