"""Where the time of a run's rounds goes: ``python benchmarks/rounds.py RUN``.

For a finished local run, usually that of ``make demo``, from its diary and its updates' metrics;
mean of the rounds after the first. Decoding, forward and backward are the embedding after its first
batch and the training loop, its waiting for decoded clips included; the rest is what starting
stages, k-means and bookkeeping take. Writes ``benchmarks/rounds.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")


def shares(run: Path, number: int, events: list[dict[str, Any]]) -> dict[str, float]:
    """Of one round's seconds."""
    of_round = [event for event in events if event.get("round") == number]
    end = [event["event"] for event in of_round].index("round")  # then the last one is embedded
    total, of_round = of_round[end]["seconds"], of_round[:end]
    embeds = [event for event in of_round if event["event"] == "embed"]
    updates = (run / "rounds" / f"{number:04d}" / "updates").glob("*/metrics.json")
    learned = [json.loads(place.read_text()) for place in updates]
    waited = [one["wait_share"] * one["train_seconds"] for one in learned]
    parts = {
        "embed: until its first batch": sum(e["start_seconds"] for e in embeds),
        "embed: decode, forward": sum(e["seconds"] - e["start_seconds"] for e in embeds),
        "learn: until its loop begins, and after": sum(
            one["seconds"] - one["train_seconds"] for one in learned
        ),
        "learn: waiting for decoded clips": sum(waited),
        "learn: steps": sum(one["train_seconds"] for one in learned) - sum(waited),
    }
    parts["k-means and the rest"] = total - sum(parts.values())
    return {name: seconds / total for name, seconds in parts.items()} | {"seconds": total}


def main() -> None:
    run = Path(sys.argv[1])
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    rounds = [event["round"] for event in events if event["event"] == "round"]
    each = [shares(run, number, events) for number in rounds if number > 1]
    mean = {name: round(float(np.mean([one[name] for one in each])), 3) for name in each[0]}
    work = ("embed: decode, forward", "learn: waiting for decoded clips", "learn: steps")
    found = {
        "about": about("torch", "ray"),
        "rounds": len(each),
        "shares": mean,
        "neither decode, forward nor backward": round(1 - sum(mean[name] for name in work), 3),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
