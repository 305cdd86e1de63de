"""R(2+1)D's convolutions in two dimensions against three: forward and backward.

    python benchmarks/convolutions.py [--turns 5]        # on a CPU, float32
    python benchmarks/convolutions.py --device cuda      # on a card, bfloat16

Each row is one network, on a CPU at one number of threads. Turns alternate between `FlatConv3d`,
the same with padded middle widths (padded_widths.py), and the same network with `nn.Conv3d`, all
channels-last; a turn is the shortest of a few steps. Ratios are of the seconds of turns that follow
each other (below 1: faster): median, least and greatest. Writes ``convolutions.json`` beside this
file, or ``convolutions_cuda.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from padded_widths import check, padded
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


def networks(name: str) -> dict[str, nn.Module]:
    """The same one, computed in three ways."""
    torch.manual_seed(0)
    flat: nn.Module = getattr(video, name)().to(memory_format=torch.channels_last_3d)
    check(flat)
    solid = copy.deepcopy(flat)
    for module in solid.modules():
        if isinstance(module, video.FlatConv3d):
            module.__class__ = nn.Conv3d
    return {"flat": flat, "padded": padded(copy.deepcopy(flat)), "solid": solid}


def spread(ratios: list[float]) -> list[float]:
    """Median, least, greatest."""
    return [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]


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
            made = {kind: one.to(device) for kind, one in networks(name).items()}
            turns = [
                {kind: seconds(one, clips, options.steps) for kind, one in made.items()}
                for _ in range(options.turns + 1)
            ][1:]
            row = {
                "network": name,
                "clips": f"{batch} × {frames}×{side}²",
                "threads": threads,
                **{f"{kind}_s": round(min(turn[kind] for turn in turns), 3) for kind in made},
                "flat to solid": spread([turn["flat"] / turn["solid"] for turn in turns]),
                "padded to flat": spread([turn["padded"] / turn["flat"] for turn in turns]),
            }
            print(row, flush=True)
            rows.append(row)
    found = {"about": about("torch", "torchvision"), "turns": options.turns, "rows": rows}
    name = "convolutions.json" if device == "cpu" else f"convolutions_{device}.json"
    (HERE / name).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
