"""The demo over several seeds and methods: how far each round lifts the encoders.

    python benchmarks/rounds.py [--seeds 0 1 2] [--methods xdc sdc] [--folder runs/benchmark]

Runs the very jobs of `make demo`, each seed with a world of its own, and writes
``benchmarks/rounds.json``. Runs that are finished are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import about

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "rounds.json"
MODALITIES = ("video", "audio")


def run(folder: Path, method: str, seed: int, config: str, settings: list[str]) -> dict[str, Any]:
    """One run of the jobs; its evaluation."""
    world, place = folder / f"world-{seed}", folder / f"{method}-{seed}"
    if not (place / "evaluation.json").exists():
        generate = ["-m", "pipeline.synthetic", str(world), "--seed", str(seed)]
        job(*generate, "--files", "600", "--difficulty", "0")
        job("jobs/index.py", str(world / "cuts.csv"), str(place))
        own = [f"run={place}", f"method={method}", f"seed={seed}"]
        job("jobs/pretrain.py", config, *own, *settings)
        job("jobs/evaluate.py", str(place))
    return json.loads((place / "evaluation.json").read_text())


def job(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of the random and the last encoders' probes."""
    found = {}
    for modality in MODALITIES:
        rounds = np.array(
            [[row["probe"][modality]["accuracy"] for row in each["rounds"]] for each in runs]
        )
        gain = rounds[:, -1] - rounds[:, 0]
        found[modality] = {
            "by_round_mean": rounds.mean(axis=0).round(4).tolist(),
            "by_round_std": rounds.std(axis=0, ddof=min(len(runs) - 1, 1)).round(4).tolist(),
            "gain_over_random_mean": round(float(gain.mean()), 4),
            "gain_over_random_least": round(float(gain.min()), 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["xdc"])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark")
    parser.add_argument("settings", nargs="*", help="further key=value settings")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "about": about("torch", "ray", "av"),
        "config": options.config,
        "settings": options.settings,
        "methods": {},
    }
    for method in options.methods:
        runs = [
            run(options.folder, method, seed, options.config, options.settings)
            for seed in options.seeds
        ]
        report["methods"][method] = {"summary": summary(runs), "runs": runs}
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
        for modality, values in report["methods"][method]["summary"].items():
            means = ", ".join(f"{value:.3f}" for value in values["by_round_mean"])
            print(f"{method} {modality}: {means} (mean of {len(runs)} seeds, by round)")


if __name__ == "__main__":
    main()
