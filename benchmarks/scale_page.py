"""The tables of docs/scale.md, from scale.json, step.json and decode.json: ``python scale_page.py``

What a cluster takes for 65 million clips is put together from parts that were measured; what was
not measured is an option here, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.config import Config
from pipeline.embedding.executors import ACTORS_EACH

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "scale.md"
CLIPS, CARDS = 65_000_000, (8, 64, 256)


_NAMES = {"python": "driver"}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of(found: dict[str, Any], part: str) -> list[tuple[int, dict[str, Any]]]:
    """Numbers of clips and results of a part, ascending."""
    rows = [(int(n.split()[0].replace(",", "")), row) for n, row in found.get(part, {}).items()]
    return sorted(rows, key=lambda row: row[0])


def arrays(found: dict[str, Any]) -> str:
    """What is as long as the clips table."""
    shown = (
        ("published", "clips table, in the store of the driver's node", "store_mb", "driver"),
        ("schedule", "an epoch's order, in the same store", "store_mb", "a task beside it"),
        ("bookkeeping", "an embedding pass that goes on", None, "driver"),
    )
    grew = {"published": "driver_and_store_mb", "schedule": "task_mb", "bookkeeping": "driver_mb"}
    rows = []
    for part, what, store, where in shown:
        for clips, row in of(found, part):
            held = f"{row[store]:,}" if store else "–"
            took = [f"{clips:,}", f"{row['seconds']:,.1f}", held, f"{row[grew[part]]:,} ({where})"]
            rows.append([what, *took])
    return table(["what", "clips", "seconds", "MB in the store", "MB a process grows by"], rows)


def ceilings(found: dict[str, Any]) -> str:
    """What any single process takes of a clip."""
    rows = []
    for clips, row in of(found, "feed"):
        each = {name: what for name, what in row.items() if isinstance(what, dict)}
        rows += [_ceiling(name, clips, row, what) for name, what in each.items()]
    for clips, row in of(found, "embed"):
        each = {name: what for name, what in row.items() if isinstance(what, dict)}
        rows += [_ceiling(f"embedding, {name}", clips, row, what) for name, what in each.items()]
    head = ["fed", "clips", "slots a task", "clips/s on 2 cores", "busiest processes, ms a clip"]
    return table(head, rows)


def _ceiling(name: str, clips: int, part: dict[str, Any], what: dict[str, Any]) -> list[str]:
    most = sorted(what["ms_a_clip"].items(), key=lambda item: -item[1])[:3]
    shown = ", ".join(f"{_NAMES.get(n, n.removeprefix('ray::'))} {ms:.3f}" for n, ms in most)
    return [name, f"{clips:,}", str(part["slots_a_task"]), f"{what['clips_per_s']:,}", shown]


def executor_rate(found: dict[str, Any]) -> float:
    """Clips a second that one dataset of an embedding pass can pass on."""
    alone = [row["datasets: 1"]["ms_a_clip"]["ray::Part"] for _, row in of(found, "embed")]
    return 1000 / min(alone)


def cluster(found: dict[str, Any], options: argparse.Namespace) -> str:
    """Hours of a round, and what else it takes."""
    config, us = Config(run="none"), of(found, "iteration")[-1][1]["microseconds_a_clip"]
    executor = executor_rate(found)
    iterations, epochs = config.clustering.iterations, config.learning.epochs
    rows = []
    for cards in CARDS:
        rate, shards = cards * options.learn, max(cards, 64)
        learn = epochs * CLIPS / rate / 3600
        datasets = math.ceil(cards / ACTORS_EACH)
        embed = CLIPS / min(cards * options.embed, datasets * executor) / 3600
        a_pass = us["k = 256"] * CLIPS / 1e6 / (shards * options.cores)
        whole = learn + embed + 2 * iterations * a_pass / 3600
        what = [embed, learn, whole]
        rows.append(
            [
                f"{cards}",
                f"{a_pass:.1f} ({shards} × {options.cores} cores)",
                *(f"{hours:.2f}" for hours in what),
                f"{rate * options.decode_ms / 1000:,.0f}",
                f"{rate * options.clip_kb / 1e6:.1f}",
            ]
        )
    head = ["cards", "an iteration of k-means, k = 256, s", "embed, h"]
    head += [f"learn, {epochs:g} epochs, h", f"a round with 2 × {iterations} iterations, h"]
    return table([*head, "cores that decode", "GB/s of batches"], rows)


def main() -> None:
    step = json.loads((HERE / "step.json").read_text())
    decode = json.loads((HERE / "decode.json").read_text())
    learn = step["cases"]["video 8×112² and audio"]["clips_per_second"]
    isolated = fmean(row["ms"]["isolated"] for row in decode["rows"])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", type=float, default=learn, help="clips a second and card")
    parser.add_argument("--embed", type=float, default=3 * learn, help="clips a second and card")
    parser.add_argument("--decode-ms", type=float, default=isolated, help="of a core, a clip")
    parser.add_argument("--cores", type=int, default=4, help="of a shard of k-means")
    parser.add_argument("--clip-kb", type=float, default=429.0, help="of a decoded clip")
    options = parser.parse_args()
    found = json.loads((HERE / "scale.json").read_text())
    made = {
        "arrays": arrays(found),
        "ceilings": ceilings(found),
        "cluster": cluster(found, options),
        "inputs": table(
            ["taken for it", "value", "from"],
            [
                ["learning, clips/s a card", f"{options.learn:,.0f}", "step.json, 8×112², H200"],
                ["embedding, clips/s a card", f"{options.embed:,.0f}", "**assumed**: 3 × learning"],
                [
                    f"embedding, clips/s a dataset ({ACTORS_EACH} cards)",
                    f"{executor_rate(found):,.0f}",
                    "scale.json: its executor",
                ],
                ["decoding, ms of a core a clip", f"{options.decode_ms:.1f}", "decode.json, mean"],
            ],
        ),
    }
    text = PAGE.read_text()
    for name, made_of in made.items():
        mark = f"<!-- {name}: scale_page.py -->"
        text = re.sub(
            f"{mark}.*?<!-- end -->", f"{mark}\n{made_of}\n<!-- end -->", text, flags=re.S
        )
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
