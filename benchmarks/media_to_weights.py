"""From media to weights on one machine: clips a second of learning, fed by real decoding.

    python benchmarks/media_to_weights.py OUT             # the full networks, on one card
    python benchmarks/media_to_weights.py OUT --small     # small ones, to see that it runs

One round of XDC on a generated world, once for each way in which clips may come: decoded from the
files by the processor, from the clip store, and decoded by the card. Of the round's update: clips a
second while it trains, and the share of that time in which it waits for clips. Goes on where it was
stopped. Writes ``benchmarks/media_to_weights.json``; with ``--small`` only prints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.telemetry.machine import about

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_suffix(".json")
SOURCES = {
    "files, decoded by the processor": [],
    "clip store": ["store.enabled=true", "store.codec=h264"],
    "files, decoded by the card": ["clips.decoder=cuda"],
}
FULL = {"side": 112, "networks": ("r2plus1d_18_xdc", "resnet18_vmz"), "batch": 32, "world": 256}
SMALL = {"side": 32, "networks": ("r2plus1d_small", "resnet_small"), "batch": 16, "world": 64}


def settings(small: bool, epochs: int) -> list[str]:
    shape: dict[str, Any] = SMALL if small else FULL
    side, (video, audio) = shape["side"], shape["networks"]
    return [
        *("method=xdc", "rounds=1", "clustering.k=32", "clustering.shards=1"),
        *(f"encoders.video={video}", f"encoders.audio={audio}", "encoders.warm_batches=2"),
        *("clips.video.frames=8", f"clips.video.size={side}", f"clips.video.short_side={side}"),
        f"clips.video.train_short_side=[{side},{side + side // 4}]",
        *(f"learning.batch_size={shape['batch']}", f"learning.epochs={epochs}"),
    ]


def job(name: str, *arguments: object) -> None:
    subprocess.run([sys.executable, ROOT / "jobs" / name, *map(str, arguments)], check=True)


def learned(run: Path) -> dict[str, Any]:
    """Of the run's one update."""
    (place,) = (run / "rounds" / "0001" / "updates").glob("*/metrics.json")
    metrics = json.loads(place.read_text())
    return {
        "clips_per_second": round(metrics["clips"] / metrics["train_seconds"], 1),
        "waiting": round(metrics["wait_share"], 3),
        "start_and_end_seconds": round(metrics["seconds"] - metrics["train_seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    has_card = torch.cuda.is_available()
    if not (options.small or has_card):
        raise SystemExit("no GPU here, and its figures are wanted; --small tries the script")
    out, world = options.out.resolve(), options.out.resolve() / "world"
    side = (SMALL if options.small else FULL)["world"]
    if not (world / "cuts.csv").exists():
        made = ["-m", "pipeline.synthetic", world, "--files", options.files, "--size", side]
        subprocess.run([sys.executable, *map(str, made), "--difficulty", "0"], check=True)
    rows: dict[str, Any] = {}
    for number, (source, more) in enumerate(SOURCES.items()):
        if "clips.decoder=cuda" in more and not has_card:
            continue
        run = out / f"run-{number}"
        job("index.py", world / "cuts.csv", run)
        job("pretrain.py", f"run={run}", *settings(options.small, options.epochs), *more)
        rows[source] = learned(run)
        print(source, rows[source], flush=True)
    if not options.small:
        name = torch.cuda.get_device_name()
        found = {"about": about("torch", "ray") | {"device": name}, "sources": rows}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
