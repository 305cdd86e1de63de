"""What the chaos suite saw, by kind: ``python benchmarks/chaos.py CHAOS CORRUPTION``.

The arguments are the files that ``make chaos`` wrote by CHAOS_RESULTS and CORRUPTION_RESULTS.
Writes chaos.json: schedules by outcome, kills by kind, and damaged files by kind and outcome.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")


def lines(place: str) -> list[dict]:
    return [json.loads(line) for line in Path(place).read_text().splitlines()]


def main() -> None:
    schedules, damaged = lines(sys.argv[1]), lines(sys.argv[2])
    latest = {one["seed"]: one for one in schedules}  # what was tried again counts once
    damaged = [*{(one["kind"], one["damage"]): one for one in damaged}.values()]
    kills = Counter(kind.partition(" ")[0] for one in latest.values() for kind in one["killed"])
    found = {
        "about": about("ray", "torch"),
        "schedules": dict(Counter(one["outcome"] for one in latest.values())),
        "kills": {"all": kills.total(), **dict(sorted(kills.items()))},
        "most kills of one schedule": max(len(one["killed"]) for one in latest.values()),
        "seconds of a schedule": sorted(one["seconds"] for one in latest.values()),
        "damaged files": dict(Counter(one["outcome"] for one in damaged)),
        "damage": {
            f"{one['kind']}, {one['damage']}": one["outcome"]
            for one in sorted(damaged, key=lambda one: (one["kind"], one["damage"]))
        },
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: found[name] for name in ("schedules", "kills", "damaged files")}))


if __name__ == "__main__":
    main()
