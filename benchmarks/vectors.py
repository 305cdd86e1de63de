"""``jobs/embed.py`` over 10,000 clips: its rate beside the embedding pass, and under kills.

    python benchmarks/vectors.py OUT [--clips 10000] [--repeats 2] [--kills 4]

The media are the demo's world, cut into so many windows; the encoders are the demo's, with random
weights. *Pass* is `pipeline.embedding.embed` alone on the same clips, as a run calls it; *job* is
the whole of jobs/embed.py after its index: the same pass, then the table of vectors. They take
turns. *Killed* is the job, killed with all its processes at random moments and started again until
it ends; its table and rejects must have the bytes of the job that was let alone. Writes
``benchmarks/vectors.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import encoders, settings
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.runtime.session import connect
from pipeline.storage import Location
from pipeline.synthetic import SyntheticWorld, write_world
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
ROOT = RESULT.parents[1]
FILES, SECONDS = 600, 4.0  # of the demo's world, and of each file in it
LINE = re.compile(r"^(embed video and audio|vectors) · [\d,]+ clips in (.+) \(", re.MULTILINE)


def cuts_of(world: Path, clips: int) -> Path:
    """A cuts table of so many windows of two seconds, spread evenly over the files."""
    files, each = sorted((world / "media").glob("*.mp4")), -(-clips // FILES)
    starts = [n * (SECONDS - 2) / max(each - 1, 1) for n in range(each)]
    rows = [f"{file},{start:.3f},{start + 2:.3f}" for file in files for start in starts][:clips]
    place = world / f"{clips}.csv"
    place.write_text("\n".join(["uri,start_s,end_s", *rows]) + "\n")
    return place


def job(cuts: Path, out: Path, weights: Path) -> list[str]:
    command = [sys.executable, str(ROOT / "jobs" / "embed.py"), str(cuts), str(out)]
    demo = str(ROOT / "configs" / "demo.yaml")
    return [*command, "--encoder", str(weights), demo, "clips.split=[]"]


def seconds_of(printed: str) -> dict[str, float]:
    """Of the stages that a job printed: ``1 min 5 s``."""
    found = {}
    for stage, took in LINE.findall(printed):
        numbers = [float(n) for n in re.findall(r"[\d.]+", took)]
        found[stage] = sum(n * 60**power for power, n in enumerate(reversed(numbers)))
    return found


def contents(out: Path) -> dict[str, bytes]:
    kept = [p for part in ("vectors", "rejects") for p in sorted((out / part).rglob("*.parquet"))]
    return {str(p.relative_to(out)): p.read_bytes() for p in kept}


def killed(command: list[str], log: Path, kills: int, longest_s: float) -> int:
    """Run it, killed so many times and started again; returns how many kills hit it."""
    draw, hit = random.Random(0), 0
    for attempt in range(kills + 1):
        with log.open("a") as stream:
            running = subprocess.Popen(
                command, stdout=stream, stderr=stream, start_new_session=True, cwd=ROOT
            )
        try:
            left = draw.uniform(0.3, 0.55) * longest_s if attempt < kills else None
            assert running.wait(left) == 0, log
            return hit
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            hit += 1
    return hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--kills", type=int, default=4)
    options = parser.parse_args()
    out = options.out.resolve()
    config = settings.load([str(ROOT / "configs" / "demo.yaml"), "clips.split=[]"])
    if not (out / "world" / "media").exists():
        write_world(out / "world", FILES, SyntheticWorld(difficulty=0.0, seconds=SECONDS))
    cuts, weights = cuts_of(out / "world", options.clips), out / "weights.safetensors"
    networks = encoders.build(config.encoders, seed=0)
    encoders.save_weights(networks, Location.of(weights))

    found: dict[str, Any] = {"clips": options.clips, "pass_s": [], "job_s": [], "stages_s": []}
    place = Location.of(out / "alone")
    for repeat in range(options.repeats):
        table = out / f"job-{repeat}"
        began = time.monotonic()
        done = subprocess.run(
            job(cuts, table, weights), capture_output=True, text=True, check=True, cwd=ROOT
        )
        whole = time.monotonic() - began
        stages = seconds_of(done.stdout)
        found["stages_s"].append(stages | {"whole": round(whole, 1)})
        found["job_s"].append(round(sum(stages.values()), 1))
        found["pass_s"].append(round(passed(cuts, place, weights, config, repeat), 1))
        print(found, flush=True)
    ratio = min(found["pass_s"]) / min(found["job_s"])
    command = job(cuts, out / "killed", weights)
    longest = max(each["whole"] for each in found["stages_s"])
    hit = killed(command, out / "killed.log", options.kills, longest)
    same = contents(out / "killed") == contents(out / "job-0")
    rates = {
        f"{name}_clips_per_s": round(options.clips / min(found[f"{name}_s"]), 1)
        for name in ("pass", "job")
    }
    found |= {"ratio": round(ratio, 3), **rates, "kills": hit, "same bytes": same}
    found["about"] = about("torch", "ray", "av")
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def passed(cuts: Path, place: Location, weights: Path, config: Config, repeat: int) -> float:
    """Seconds of the embedding pass alone, in this process."""
    import ray

    connect(config.resources, place)
    index(str(cuts), place, config)
    clips = ClipTable.open(place / "clips").publish()
    folder = place / f"features-{repeat}"
    features = {m: folder / m for m in ("video", "audio")}
    task = EmbeddingTask(
        clips, Location.of(weights), features, folder / "rejects", config, "embed video and audio"
    )
    began = time.monotonic()
    embed(task)
    took = time.monotonic() - began
    ray.shutdown()
    return took


if __name__ == "__main__":
    main()
