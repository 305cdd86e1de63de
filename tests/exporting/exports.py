"""Exports to check with stock packages: ``python -m tests.exporting.exports OUT``.

Writes OUT/<name>/run, its encoders in OUT/<name>/out, and OUT/<name>/<modality>.safetensors: media,
and the features that our own code makes of them. stock_check.py reads them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from jobs.export import main as export
from pipeline import encoders
from pipeline.config import Config
from pipeline.run import Run
from tests.conftest import tiny
from tests.encoders import small_transformers
from tests.encoders.random_statistics import randomise

# Code after which this package cannot be imported.
WITHOUT_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline", "jobs"):
            raise ModuleNotFoundError(f"no module named {name!r}")

sys.meta_path.insert(0, Absent())
try:
    import pipeline
except ModuleNotFoundError:
    pass
else:
    sys.exit("the package can be imported: nothing would be proven")
"""
# Name of a run → its settings, and modality → options of the export.
Jobs = dict[str, tuple[list[str], dict[str, list[str]]]]

GRAPHS = ["--formats", "onnx", "torch-export"]
LAYERNORM = "tests.encoders.layernorm_networks"
# Networks of torchvision and of ours, with and without BatchNorm, graphs with and without the front
# end, both ways to normalise.
CHECKED: Jobs = {
    "stock": (
        ["encoders.video=r2plus1d_18", "encoders.audio=resnet18"],
        {m: [*GRAPHS, "torchvision"] for m in ("video", "audio")},
    ),
    "own": (
        ["encoders.audio=resnet18_vmz", "clips.audio.normalize=none"],
        {m: [*GRAPHS, "--front-end"] for m in ("video", "audio")},
    ),
    "others": (
        [f"encoders.video={LAYERNORM}:video_convnet", f"encoders.audio={LAYERNORM}:audio_convnet"],
        dict.fromkeys(("video", "audio"), GRAPHS),
    ),
}


def of_other_packages(base: Path) -> Jobs:
    """A vision transformer of timm, and HuBERT, which hears the waveform; both are small."""
    hubert = small_transformers.folder(base / "models", "Hubert")
    vit = "timm:vit_tiny_patch16_224?img_size=24&patch_size=8&depth=2"
    both = dict.fromkeys(("video", "audio"), GRAPHS)
    return {"families": ([f"encoders.video={vit}", f"encoders.audio=hf:{hubert}"], both)}


def new_run(place: Path, *overrides: str) -> tuple[Run, torch.nn.ModuleDict]:
    """A run with one finished round, as pretraining leaves it, and its encoders."""
    run = Run.open(tiny(f"run={place}", "rounds=3", *overrides))
    networks = randomise(encoders.build(run.config.encoders, seed=1)).eval()
    encoders.save_weights(networks, run.round(0).encoders)
    run.commit(run.round(0), {"round": 0})
    encoders.save_weights(networks, run.round(1).encoders)
    learned = {"labelled": 1234, "epochs": [{"loss_video_audio": 1.5, "loss_audio_video": 1.5}]}
    run.commit(run.round(1), {"round": 1, "updates": [learned], "seconds": 1.0})
    return run, networks


def media_and_features(
    config: Config, modality: str, network: torch.nn.Module, count: int = 7
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Random clips, by the name that the card gives them, and their features."""
    draw = torch.Generator().manual_seed(3)
    video, audio = config.clips.video, config.clips.audio
    front = encoders.front_end(modality, network, config.clips)
    with torch.no_grad():
        if modality == "video":
            shape = (count, video.frames, video.size, video.size, 3)
            frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
            return {"frames": frames}, network(front(frames)).numpy()
        waveform = 0.2 * torch.randn((count, audio.samples), generator=draw)
        waveform[2] = 0  # digital silence
        return {"waveform": waveform}, network(front(waveform)).numpy()


def export_all(base: Path, jobs: Jobs) -> None:
    for name, (overrides, options) in jobs.items():
        run, networks = new_run(base / name / "run", *overrides)
        for modality, network in networks.items():
            if modality in options:
                place = [str(base / name / "run"), str(base / name / "out")]
                export([*place, "--modality", modality, *options[modality]])
                media, features = media_and_features(run.config, modality, network)
                tensors = {**media, "expected": torch.from_numpy(features)}
                save_file(tensors, base / name / f"{modality}.safetensors")


if __name__ == "__main__":
    base = Path(sys.argv[1])
    export_all(base, CHECKED | of_other_packages(base))
