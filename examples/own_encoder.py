"""Bring your encoder: pretrain a network of this file beside one of another package.

``python examples/own_encoder.py MEDIA RUN [key=value …]``, for example
``python examples/own_encoder.py /data/videos runs/own rounds=2``. The networks here are small.
pipeline/encoders/contract.py says what a network must be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline import settings
from pipeline.clips.indexing import index
from pipeline.rounds import pretrain
from pipeline.runtime.session import connect
from pipeline.storage import Location

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000


class WaveNetwork(nn.Module):
    """waveform float32 [B, samples] → float [B, 64]: strided convolutions, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 64
        self.input = {"kind": "waveform", "unit": True, "settings": {"clips.audio.rate": RATE}}
        widths, strides = (1, 16, 32, 64), (10, 8, 8)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(i, o, 2 * s, stride=s), nn.GroupNorm(1, o), nn.GELU())
            for i, o, s in zip(widths, widths[1:], strides)
        )

    def forward(self, x_BS: Tensor) -> Tensor:
        x = x_BS.unsqueeze(1)
        for layer in self.layers:
            x = layer(x)
        return x.mean(dim=2)


class FrameNetwork(nn.Module):
    """frames float32 [B, 3, T, H, W] → float [B, 64]: a small transformer over patches in time."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 64
        self.input = {"kind": "frames", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.patches = nn.Conv3d(3, self.dim, (2, 8, 8), stride=(2, 8, 8))
        layer = nn.TransformerEncoderLayer(self.dim, 4, 128, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        patches = self.patches(x_BCTHW)
        dim, T, H, W = patches.shape[1:]
        places = torch.stack(torch.meshgrid(*map(torch.arange, (T, H, W)), indexing="ij"))
        waves = torch.arange(dim, device=patches.device).view(-1, 1, 1, 1) + 1
        where = torch.sin(places.to(patches).sum(0) * waves / dim + places.to(patches)[0])
        return self.blocks((patches + where).flatten(2).transpose(1, 2)).mean(dim=1)


def main(media: str, run: str, *overrides: str) -> None:
    sys.path.insert(0, str(ROOT))  # Ray's workers look where this process does
    here = "examples.own_encoder"
    own = [f"encoders.video={here}:FrameNetwork", f"encoders.audio={here}:WaveNetwork"]
    config = settings.load([str(ROOT / "configs" / "small.yaml"), *own, *overrides, f"run={run}"])
    connect(config.resources)  # the cluster in RAY_ADDRESS, or Ray on this machine
    index(media, Location.of(run), config)
    finished = pretrain(config)
    print(f"round {finished.last_round()} is done: {finished.encoders}")


if __name__ == "__main__":
    main(*sys.argv[1:])
