"""A report of 10,000 clips: how long it takes to make and to open, and how large it is.

    python benchmarks/report.py OUT [--clips 10000]

The media are the demo's world, cut into so many windows; the run is one short round of the demo's
networks with 64 clusters a modality. *Made* is the whole of jobs/report.py, into an empty folder.
*Opened* is the time from asking headless Chromium for a view (``file://``, a new page each) until
the view has rendered. Writes ``benchmarks/report.json``. It needs a
Chromium that is installed.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.vectors import FILES, ROOT, SECONDS, cuts_of
from pipeline.synthetic import SyntheticWorld, write_world
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
VIEWS = ("overview", "clusters/audio/1", "across/1", "map", "nearest", "rejects")
SETTINGS = [
    *("clips.split=[]", "rounds=1", "learning.epochs=0.1", "clustering.k=64"),
    *("clustering.iterations=10", "embedding.keep=false"),
]


def labelled(cuts: Path, world: Path) -> Path:
    """The same cuts with the label of each file."""
    with (world / "cuts.csv").open() as stream:
        label_of = {Path(row["uri"]).name: row["label"] for row in csv.DictReader(stream)}
    header, *rows = cuts.read_text().splitlines()
    place = cuts.with_suffix(".labelled.csv")
    lines = [f"{row},{label_of[Path(row.split(',')[0]).name]}" for row in rows]
    place.write_text("\n".join([f"{header},label", *lines]) + "\n")
    return place


def job(name: str, *arguments: str) -> float:
    """Seconds of a job."""
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    subprocess.run(command, check=True, cwd=ROOT)
    return time.monotonic() - began


def opened(page: Path) -> dict[str, Any]:
    """Seconds until each view has rendered."""
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        for view in VIEWS:
            tab = browser.new_page()
            began = time.monotonic()
            tab.goto(f"file://{page}#{view}")
            tab.wait_for_selector('html[data-ready="1"]', timeout=60_000)
            found[view] = round(time.monotonic() - began, 2)
            tab.close()
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    options = parser.parse_args()
    out, world = options.out.resolve(), options.out.resolve() / "world"
    run, page = out / "run", out / "report"
    if not (world / "media").exists():
        write_world(world, FILES, SyntheticWorld(difficulty=0.0, seconds=SECONDS))
    cuts = labelled(cuts_of(world, options.clips), world)
    job("index", str(cuts), str(run))
    job("pretrain", str(ROOT / "configs" / "demo.yaml"), f"run={run}", *SETTINGS)
    shutil.rmtree(page, ignore_errors=True)
    seconds = job("report", str(run), str(page))
    files = [path for path in page.rglob("*") if path.is_file()]
    found = {
        "clips": options.clips,
        "made_s": round(seconds, 1),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "files": len(files),
        "opened_s": opened(page / "index.html"),
        "about": about("torch", "ray", "av"),
    }
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
