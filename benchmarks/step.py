"""The training step on one device, on clips that are decoded already, without Ray.

    python benchmarks/step.py                 # the full networks on a GPU
    python benchmarks/step.py --small         # small ones, to see that it runs
    python benchmarks/step.py --encoders timm:vit_small_patch16_224?img_size=112 resnet18_vmz

*Ours* is `pipeline.learning.learner.Learner`: uint8 clips from the host, front ends on the device,
channels-last, bfloat16 where the device multiplies it. *Reference* is the step of torchvision's
video classification recipe (references/video_classification of torchvision 0.26: normalised float
clips, channels first, SGD; float32, and with its switch for automatic mixed precision). MFU is the
floating-point operations of forward and backward a second, over those of the device's fastest
matrix product in the same format. Writes ``benchmarks/step.json``; with ``--encoders``, which takes
all that ``encoders.video`` and ``encoders.audio`` take, only prints.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from learning import K, made_up
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline import encoders
from pipeline.config import Config
from pipeline.encoders.frontend import front_end
from pipeline.learning.learner import Learner
from pipeline.learning.optimizers import new_optimizer
from pipeline.learning.task import LearnerSpec
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
CASES = {
    # name: encoders trained, side of the picture
    "video 8×112²": ("video", 112),
    "video 8×224²": ("video", 224),
    "audio": ("audio", 112),
    "video 8×112² and audio": ("video audio", 112),
}


def timed(step: Callable[[int], object], device: torch.device, steps: int) -> float:
    """Seconds a step, the best of three runs, after a few that warm up."""

    def run(count: int) -> float:
        begun = time.perf_counter()
        for number in range(count):
            step(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) / count

    run(5)
    return min(run(steps) for _ in range(3))


def ours(config: Config, modalities: list[str], device: torch.device, steps: int) -> dict[str, Any]:
    """Clips a second, operations a clip, bytes of device memory a clip."""
    heads = {m: {m: K} for m in modalities}
    with tempfile.TemporaryDirectory() as folder:
        weights = Location.of(folder) / "encoders.safetensors"
        encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
        spec = LearnerSpec(heads, weights, (0, 1, 0))
        learner = Learner(spec, config, device, lambda model: model.to(device))
    batches = [made_up(config, seed) for seed in range(4)]
    with FlopCounterMode(display=False) as counter:
        learner.step(batches[:1], 0.5)
    size = config.learning.batch_size
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda number: learner.step([batches[number % 4]], 0.5), device, steps)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "clips_per_second": round(size / seconds, 1),
        "gflops_per_clip": round(counter.get_total_flops() / size / 1e9, 2),
        "mb_per_clip": round(peak / size / 2**20, 1),
    }


def reference(
    config: Config, modality: str, device: torch.device, steps: int, amp: bool
) -> dict[str, Any]:
    """Clips a second of the recipe's step with the same network."""
    network = encoders.build(config.encoders, seed=0)[modality]
    model = nn.Sequential(network, nn.Linear(int(network.dim), K)).to(device).train()
    optimizer = new_optimizer(model, config.learning.model_copy(update={"optimizer": "sgd"}))
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    size = config.learning.batch_size
    decoded = torch.from_numpy(made_up(config, 0)[modality][:1])
    shape = front_end(modality, network, config.clips)(decoded).shape[1:]
    images = [torch.randn(size, *shape) for _ in range(4)]
    if device.type == "cuda":
        images = [image.pin_memory() for image in images]
    labels = torch.randint(0, K, (size,), device=device)

    def step(number: int) -> None:
        image = images[number % 4].to(device, non_blocking=True)
        with torch.amp.autocast(device.type, enabled=amp):
            loss = nn.functional.cross_entropy(model(image), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return {"clips_per_second": round(size / timed(step, device, steps), 1)}


def peak_flops(device: torch.device) -> float:
    """Of the fastest square matrix product, in the format that `ours` multiplies."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = 0.0
    for side in (4096, 8192) if device.type == "cuda" else (2048,):
        a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        found = max(found, 2 * side**3 / timed(lambda _, a=a, b=b: a @ b, device, 10))  # type: ignore[misc]
    return found


def settings(side: int, options: argparse.Namespace) -> Config:
    small = ("r2plus1d_small", "resnet_small") if options.small else ()
    video, audio = options.encoders or small or ("r2plus1d_18_xdc", "resnet18_vmz")
    side = 32 if options.small else side
    return load(
        [
            *(f"encoders.video={video}", f"encoders.audio={audio}", "clips.video.frames=8"),
            *(f"clips.video.size={side}", f"clips.video.short_side={side}", *options.set),
            f"clips.video.train_short_side=[{side},{side}]",
            f"learning.batch_size={options.batch}",
            f"learning.compile={str(options.compile).lower()}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--encoders", nargs=2, metavar=("VIDEO", "AUDIO"))
    parser.add_argument("--set", nargs="*", default=[], help="further settings: key=value")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        raise SystemExit(
            "no GPU here, and its figures are what is wanted; --small tries the script"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, Any] = {
        "about": about("torch", "torchvision") | {"device": name, "batch": options.batch},
        "peak_tflops": round(peak / 1e12, 2),
        "cases": {},
    }
    for case, (names, side) in CASES.items():
        config, modalities = settings(side, options), names.split()
        row = ours(config, modalities, device, options.steps)
        row["mfu"] = round(row["clips_per_second"] * row["gflops_per_clip"] * 1e9 / peak, 3)
        if len(modalities) == 1:
            for amp in (False, True) if device.type == "cuda" else (False,):
                theirs = reference(config, names, device, options.steps, amp)
                key = "reference, mixed precision" if amp else "reference, float32"
                row[key] = theirs["clips_per_second"]
        found["cases"][case] = row
        print(case, row, flush=True)
    if options.small or options.encoders:
        return
    RESULT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
