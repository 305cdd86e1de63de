"""What is done to decoded frames on the device: flip, scale to [0, 1], normalise, reorder axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import VideoConfig


class FramesToInput(nn.Module):
    """uint8 frames [B, T, H, W, 3] → float32 network input [B, 3, T, H, W], with the channels
    still last in memory.

    A clip is mirrored as a whole, never frame by frame (as FAIR's VMZ does).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)

    def forward(self, frames_BTHWC: Tensor, mirror_B: Tensor | None = None) -> Tensor:
        if mirror_B is not None:
            mirrored = frames_BTHWC.flip(3)
            frames_BTHWC = torch.where(mirror_B.view(-1, 1, 1, 1, 1), mirrored, frames_BTHWC)
        x = (frames_BTHWC.float() / 255 - self.mean) / self.std
        return x.permute(0, 4, 1, 2, 3)
