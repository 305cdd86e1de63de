"""An encoder with all that loading by transformers could lose: constants that no file holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Awkward(nn.Module):
    """spectrogram float [B, 1, mels, frames] → [B, 12].

    It computes a buffer that is not stored, a plain tensor and a Python number when it is made, has
    parameters of its own beside those of modules, and names that transformers itself uses.
    """

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dim = 12
        self.register_buffer("scale", torch.linspace(0.5, 2, 12), persistent=False)
        self.shift = torch.arange(12.0) / 10
        self.factor = torch.linspace(0, 3, 4)[2].item()
        self.gamma = nn.Parameter(torch.rand(12))
        self.encoder = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2), nn.ReLU())
        self.network = nn.LayerNorm(12)

    def forward(self, spectrogram_B1MF: Tensor) -> Tensor:
        x = self.encoder(spectrogram_B1MF).mean((2, 3)) * self.factor
        return self.network(x) * self.scale * self.gamma + self.shift.to(x)


def audio() -> Awkward:
    return Awkward()
