"""Features without learning, on the encoders' inputs: what an encoder must beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GRID = 4  # cells a side of the frame
_TIMES = 10  # steps of the spectrogram


class MeanColour(nn.Module):
    """video float [B, 3, T, H, W], normalised → [B, 48]: mean colour of 4×4 cells, over time."""

    dim = 3 * _GRID**2

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(video_BCTHW.mean(dim=2), _GRID).flatten(1)


class CoarseLogMel(nn.Module):
    """spectrogram float [B, 1, mels, frames] → [B, 11·mels]: bands at ten times, and deviations."""

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.dim = (_TIMES + 1) * mels

    def forward(self, spectrogram_B1MF: Tensor) -> Tensor:
        x = spectrogram_B1MF.squeeze(1)
        steps = F.adaptive_avg_pool1d(x, _TIMES).flatten(1)
        return torch.cat([steps, x.std(dim=2)], dim=1)


def build(mels: int) -> nn.ModuleDict:
    """Both, as `pipeline.encoders.build` gives the encoders; they have no weights."""
    return nn.ModuleDict({"video": MeanColour(), "audio": CoarseLogMel(mels)})
