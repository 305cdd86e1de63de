"""Forecast against actual: ``python benchmarks/plan.py [demo] [words --words words.csv]``.

Each case is indexed into a fresh run, planned by ``jobs/pretrain.py --plan``, and then run by the
same command without it, on an otherwise quiet machine. What the run took is what it says itself
(its event ``forecast``), beside the command's seconds on the clock. *demo* is the run of
``make demo``; *words* is `configs/words.yaml` for one round of two epochs. Adds to
``benchmarks/plan.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "demo": ["configs/demo.yaml"],
    "words": ["configs/words.yaml", "clips.split=train", "rounds=1", "learning.epochs=2"],
}


def run(*arguments: str) -> tuple[str, float]:
    """Standard output of a command of this repository, and its seconds."""
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return ended.stdout, time.monotonic() - began


def measured(case: str, words: str, folder: str) -> dict[str, Any]:
    place, cuts = f"{folder}/run", words
    if case == "demo":
        run("-m", "pipeline.synthetic", f"{folder}/world", "--files", "600", "--difficulty", "0")
        cuts = f"{folder}/world/cuts.csv"
    run("jobs/index.py", cuts, place)
    command = ["jobs/pretrain.py", *CASES[case], f"run={place}"]
    said, planning_s = run(*command, "--plan", "--json")
    plan = json.loads(said)
    said, seconds = run(*command)
    print(said, flush=True)
    events = [json.loads(line) for line in Path(place, "events.jsonl").read_text().splitlines()]
    (told,) = [event for event in events if event["event"] == "forecast"]
    return {
        "settings": CASES[case],
        "planning_s": round(planning_s, 1),
        "command_s": round(seconds, 1),
        "of the command": round(plan["seconds"] / seconds - 1, 3),
        "stages": {
            name: {
                "forecast_s": round(forecast, 1),
                "actual_s": round(actual, 1),
                "error": round(forecast / actual - 1, 3) if actual else None,
            }
            for name, (forecast, actual) in told["stages"].items()
            if forecast or actual
        },
        "plan": plan["measured"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["demo"], choices=CASES)
    parser.add_argument("--words", default="", help="the cuts table of the words")
    options = parser.parse_args()
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(case, options.words, folder)
        print(case, json.dumps(found, indent=1), flush=True)
        results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        results |= {case: about("torch", "ray", "av") | found}
        RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
