"""Nodes by type while a run grows from a head alone, loses spot nodes, and shrinks again.

    python -m benchmarks.autoscaling [--clips 240]

The cloud is the one of ``tests/fake_cloud.py``: Ray's autoscaler, its nodes processes of this
machine. So the plot shows who is asked for and given back when, and what a loss costs; a node that
a real cloud brings up takes minutes more, and nothing here is faster with more nodes than cores.
Writes ``benchmarks/autoscaling.json`` and ``benchmarks/autoscaling.png`` (extra ``plots``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import ray

from pipeline import synthetic
from pipeline.clips.indexing import index
from pipeline.runtime.session import connect
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about
from tests.conftest import TINY
from tests.fake_cloud import CLOUD, LESSON, LOSSES, FakeCloud, Sample, Story

RESULT = Path(__file__).with_suffix(".json")
COLOURS = {"decode": "#2a78d6", "memory": "#8a5cc2", "gpu": "#d9822b"}
SHADES = {"start": "#ffffff", "embed": "#dbe9f8", "cluster": "#e9e0f4", "learn": "#fbe8d3"}


def prepared(folder: Path, clips: int) -> Path:
    """A run directory with the clips of a generated world."""
    world = synthetic.SyntheticWorld(classes=4, places=4, size=48, seconds=1.2, difficulty=0.0)
    cuts = synthetic.write_world(folder / "world", clips, world)
    settings = load(TINY)
    connect(settings.resources)
    index(str(cuts), Location.of(folder / "run"), settings)
    ray.shutdown()
    return folder / "run"


def stages(run: Path, story: Story) -> list[dict[str, Any]]:
    """What the run's diary says was done when; a stage lasts from the one before to its entry."""
    diary = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    ends = [(event["event"], event["time"]) for event in diary if event["event"] != "round"]
    spans = [
        {"stage": name, "from_s": before - story.began, "to_s": after - story.began}
        for (_, before), (name, after) in pairwise([("start", story.began), *ends])
    ]
    joined = []
    for _, group in groupby(spans, key=lambda span: span["stage"]):
        first, *_, last = [*group] * 2
        joined.append({**first, "to_s": last["to_s"]})
    return joined


def steps(samples: list[Sample], story: Story) -> list[dict[str, Any]]:
    """Node counts each time one changed."""
    changed = [samples[0]]
    for sample in samples:
        if sample.nodes != changed[-1].nodes:
            changed.append(sample)
    return [{"s": sample.time - story.began, **sample.nodes} for sample in changed]


def measure(clips: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(Path(folder), clips)
        with FakeCloud(CLOUD) as cloud:
            job = ["jobs/pretrain.py", *TINY, *LESSON, f"run={run}"]
            story = cloud.tell(job, LOSSES)
            samples = list(cloud.samples)
        if story.code or len(story.lost) < len(LOSSES) or story.alone is None:
            raise SystemExit(f"the run did not go as it should:\n{story.output}")
        return rounded(
            {
                "about": about("ray", "torch", "xdc-ray"),
                "clips": clips,
                "settings": LESSON,
                "stages": stages(run, story),
                "nodes": steps(samples, story),
                "lost": [{"type": kind, "s": when - story.began} for kind, when in story.lost],
                "ended_s": story.ended - story.began,
                "alone_s": story.alone - story.began,
                "node_s": node_seconds(samples),
            }
        )


def node_seconds(samples: list[Sample]) -> dict[str, float]:
    """Seconds that nodes of each type were up, summed over nodes."""
    return {
        kind: sum((b.time - a.time) * a.nodes[kind] for a, b in pairwise(samples)) for kind in CLOUD
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 1) if isinstance(value, float) else value


def draw(found: dict[str, Any], place: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(CLOUD), sharex=True, figsize=(9, 4.2))
    times = [step["s"] for step in found["nodes"]] + [found["alone_s"]]
    for axis, (kind, node_type) in zip(axes, CLOUD.items()):
        for span in found["stages"]:
            shade = SHADES.get(span["stage"], "#ffffff")
            axis.axvspan(span["from_s"], span["to_s"], color=shade, linewidth=0)
        counts = [step[kind] for step in found["nodes"]]
        axis.step(times, [*counts, counts[-1]], where="post", color=COLOURS[kind], linewidth=2)
        axis.axvline(found["ended_s"], color="#777777", linewidth=1, linestyle=":")
        axis.set_ylim(-0.1, node_type.most + 0.4)
        axis.set_yticks(range(node_type.most + 1))
        axis.set_ylabel(kind)
        axis.spines[["top", "right"]].set_visible(False)
    for loss in found["lost"]:
        axes[list(CLOUD).index(loss["type"])].plot(loss["s"], 0.5, "x", color="#c0392b", ms=9)
    for span in found["stages"]:
        middle = (span["from_s"] + span["to_s"]) / 2
        axes[0].text(middle, CLOUD["memory"].most + 0.45, span["stage"], ha="center", fontsize=8)
    axes[-1].set_xlabel("seconds since the job was submitted (×: a node is lost; ⋯: the job ends)")
    axes[-1].set_xlim(0, found["alone_s"])
    figure.suptitle("Nodes of each role: two rounds of XDC from a head alone", fontsize=11)
    figure.tight_layout()
    figure.savefig(place, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--draw", action="store_true", help="only the plot, from the JSON")
    options = parser.parse_args()
    if not options.draw:
        RESULT.write_text(json.dumps(measure(options.clips), indent=1) + "\n")
    draw(json.loads(RESULT.read_text()), RESULT.with_suffix(".png"))


if __name__ == "__main__":
    main()
