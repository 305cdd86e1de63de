"""Pretrain on a folder of videos: ``python examples/pretrain_folder.py MEDIA RUN [key=value …]``.

For example ``python examples/pretrain_folder.py /data/videos runs/a clustering.k=32 rounds=2``.
The same call continues where an earlier one stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import settings
from pipeline.clips.indexing import index
from pipeline.rounds import pretrain
from pipeline.runtime.session import connect
from pipeline.storage import Location

# Small networks and small frames: they suit a CPU.
SMALL = Path(__file__).resolve().parents[1] / "configs" / "small.yaml"


def main(media: str, run: str, *overrides: str) -> None:
    config = settings.load([str(SMALL), *overrides, f"run={run}"])
    connect(config.resources)  # the cluster in RAY_ADDRESS, or Ray on this machine

    report = index(media, Location.of(run), config)
    print(f"{report.clips} new clips, {report.rejected} inputs rejected: {report.reasons}")

    finished = pretrain(config)
    print(f"round {finished.last_round()} is done: {finished.encoders}")


if __name__ == "__main__":
    main(*sys.argv[1:])
