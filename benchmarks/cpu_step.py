"""What the training step on a CPU gains from kept memory and from ``torch.compile``.

    python benchmarks/cpu_step.py [--repeats 3] [--threads 1 2]

The words' networks and batch, one step of `Learner` on clips that are decoded already, in a thread
as Ray Train runs it. A turn is a process of its own, since glibc reads its environment as it
starts. Contenders take turns; a ratio is of two turns of one round. Writes an entry of
``benchmarks/cpu_step.json``, by torch's version.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import torch
from step import ours

from pipeline.runtime.placement import KEEPS_MEMORY
from pipeline.settings import load
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
COMPILED = "learning.compile=true"
CONTENDERS: dict[str, tuple[dict[str, str], list[str]]] = {
    # name: environment, settings
    "plain": ({}, []),
    "keeps memory": (KEEPS_MEMORY, []),
    "keeps memory, compiled": (KEEPS_MEMORY, [COMPILED]),
}


def turn(threads: int, settings: list[str]) -> None:
    """Print the clips a second of one process."""
    torch.set_num_threads(threads)
    config = load([str(RESULT.parents[1] / "configs" / "words.yaml"), *settings])

    def train() -> None:
        row = ours(config, ["video", "audio"], torch.device("cpu"), steps=4)
        print(row["clips_per_second"])

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()


def rate(name: str, threads: int) -> float:
    environment, settings = CONTENDERS[name]
    command = [sys.executable, __file__, "--turn", str(threads), *settings]
    more = {"OMP_WAIT_POLICY": "PASSIVE", **environment}  # as a Ray that a job starts has it
    ended = subprocess.run(command, env=os.environ | more, stdout=subprocess.PIPE, check=True)
    if not ended.stdout.split():
        raise SystemExit(f"{name} with {threads} threads gave no figure; its traceback is above")
    return float(ended.stdout.split()[-1])


def measured(threads: int, repeats: int) -> dict[str, object]:
    """Clips a second of all turns, and ratios of the turns of one round."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            rates[name].append(rate(name, threads))
        print(threads, {name: values[-1] for name, values in rates.items()}, flush=True)
    ratios = {}
    for name, base in (("keeps memory", "plain"), ("keeps memory, compiled", "keeps memory")):
        pairs = sorted(a / b for a, b in zip(rates[name], rates[base]))
        ratios[f"{name} / {base}"] = {
            "median": round(statistics.median(pairs), 3),
            "least": round(pairs[0], 3),
            "greatest": round(pairs[-1], 3),
        }
    return {"clips_per_second": rates, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turn", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        turn(int(options.turn[0]), options.turn[1:])
        return
    entry = {f"{n} threads": measured(n, options.repeats) for n in options.threads}
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    found[torch.__version__] = {"about": about("torch"), **entry}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
