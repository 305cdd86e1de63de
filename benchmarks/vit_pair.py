"""A pair of small transformers of other packages on the demo's world: do both learn?

    python benchmarks/vit_pair.py OUT [--seeds 0 1 2] [--rounds 2]

timm's ViT over the frames and transformers' AST over the sound, both from random weights, with the
demo's clips, the method that did best in findings.md, and twice the demo's epochs. Linear probes on
held-out files, of round 0 (the random start) and of every round after it. Goes on where it was
stopped. Writes ``benchmarks/vit_pair.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import transformers

from pipeline.config import ResourcesConfig
from pipeline.methods import MODALITIES
from pipeline.reproduction import worlds
from pipeline.reproduction.trials import Preset, Trial, run_trial
from pipeline.runtime.session import connect
from pipeline.storage import Location
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
VIDEO = "timm:vit_tiny_patch16_224?img_size=32&patch_size=8&depth=4"
SOUND = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 384,
    "num_mel_bins": 64,
}


def sound_network(place: Path, window_s: float) -> str:
    """A folder with a small AST's configuration, for windows of this length."""
    frames = int(window_s * 100) - 2  # a frame every 10 ms, of 25 ms
    config = transformers.ASTConfig(max_length=frames, **SOUND)
    config.save_pretrained(place)
    front = transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=frames)
    front.save_pretrained(place)
    return f"hf:{place}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    out = options.out.resolve()
    connect(ResourcesConfig(), Location.of(out))
    preset = Preset(
        "vit",
        settings=(
            f"encoders.video={VIDEO}",
            f"encoders.audio={sound_network(out / 'ast', 2.0)}",
            "clips.audio.window_s=2.0",
            "clustering.first=raw",
            "store.enabled=true",
            "learning.lr=0.001",
            "learning.epochs=16",
            f"rounds={options.rounds}",
        ),
    )
    trial = Trial("vit-pair", "anchored_audio", every_round=True)
    found = []
    for seed in options.seeds:
        result = run_trial(trial, worlds.generated(seed, 600), seed, preset, Location.of(out))
        accuracy = {
            m: [round(r["probe"][m]["test"]["accuracy"], 3) for r in result.rounds]
            for m in MODALITIES
        }
        found.append({"seed": seed, "clips": result.clips, "seconds": result.seconds, **accuracy})
        print(found[-1], flush=True)
    facts = about("torch", "timm", "transformers") | {"settings": preset.settings[2:]}
    written = {"about": facts, "networks": [VIDEO, SOUND], "probe accuracy by round": found}
    RESULT.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
