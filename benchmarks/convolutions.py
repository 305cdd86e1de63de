"""R(2+1)D's convolutions in two dimensions against three: forward and backward.

    python benchmarks/convolutions.py [--turns 5]        # on a CPU, float32
    python benchmarks/convolutions.py --device cuda      # on a card, bfloat16

Each row is one network, on a CPU at one number of threads. Turns alternate between `FlatConv3d` and
the same network with `nn.Conv3d`, both channels-last; a turn is the shortest of a few steps. The
ratio is of the seconds of a pair of turns (below 1: two dimensions are faster): its median, least
and greatest. Writes ``benchmarks/convolutions.json``, or ``convolutions_cuda.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from pipeline.encoders import video
from pipeline.telemetry.machine import about

HERE = Path(__file__).resolve().parent
# device: name of a network → frames, side, clips of a batch
CASES = {
    "cpu": {
        "r2plus1d_18": (8, 112, 2),
        "r2plus1d_18_xdc": (8, 112, 2),
        "r2plus1d_small": (8, 64, 32),
    },
    "cuda": {"r2plus1d_18": (8, 112, 32), "r2plus1d_18_xdc": (8, 112, 32)},
}


def network(name: str, flat: bool) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = getattr(video, name)().to(memory_format=torch.channels_last_3d)
    for module in made.modules():
        if not flat and isinstance(module, video.FlatConv3d):
            module.__class__ = nn.Conv3d
    return made


def seconds(model: nn.Module, clips: torch.Tensor, steps: int) -> float:
    """The shortest of these steps."""
    on_card, taken = clips.is_cuda, []
    for _ in range(steps):
        begun = time.perf_counter()
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=on_card):
            output = model(clips)
        output.sum().backward()
        if on_card:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
        model.zero_grad()
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=CASES, default="cpu")
    options = parser.parse_args()
    device, rows = options.device, []
    for threads in (1, 2) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        for name, (frames, side, batch) in CASES[device].items():
            clips = torch.randn(batch, 3, frames, side, side, device=device)
            clips = clips.to(memory_format=torch.channels_last_3d)
            flat, solid = (network(name, kind).to(device) for kind in (True, False))
            pairs = [
                (seconds(flat, clips, options.steps), seconds(solid, clips, options.steps))
                for _ in range(options.turns + 1)
            ][1:]
            ratios = sorted(two / three for two, three in pairs)
            row = {
                "network": name,
                "clips": f"{batch} × {frames}×{side}²",
                "threads": threads,
                "two_dimensions_s": round(min(two for two, _ in pairs), 3),
                "three_dimensions_s": round(min(three for _, three in pairs), 3),
                "ratio": [
                    round(x, 3) for x in (statistics.median(ratios), *ratios[:: len(ratios) - 1])
                ],
            }
            print(row, flush=True)
            rows.append(row)
    found = {"about": about("torch", "torchvision"), "turns": options.turns, "rows": rows}
    name = "convolutions.json" if device == "cpu" else f"convolutions_{device}.json"
    (HERE / name).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
