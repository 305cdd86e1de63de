"""Adapt weights to your videos: ``python examples/adapt_weights.py MEDIA RUN START [key=value …]``.

START is what both encoders begin with: a run, a folder of jobs/export.py, or a file of a run's
encoders. For example ``python examples/adapt_weights.py /data/ours runs/b runs/a rounds=1``. Prints
the probe of each round beside that of the start, where the videos have labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import settings
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable
from pipeline.evaluation import report
from pipeline.evaluation.protocols import evaluate_rounds
from pipeline.rounds import pretrain
from pipeline.runtime.session import connect
from pipeline.storage import Location

SMALL = Path(__file__).resolve().parents[1] / "configs" / "small.yaml"


def main(media: str, run: str, start: str, *overrides: str) -> None:
    begins = [f"encoders.{modality}.start={start}" for modality in ("video", "audio")]
    config = settings.load([str(SMALL), *begins, *overrides, f"run={run}"])
    connect(config.resources)  # the cluster in RAY_ADDRESS, or Ray on this machine
    index(media, Location.of(run), config)
    finished = pretrain(config)

    labels = ClipTable.open(finished.clips).column("label")
    if labels.null_count == len(labels):
        print("no clip has a label: there is nothing to probe against")
        return
    last = finished.finished_round().number
    found = evaluate_rounds(finished, [last], test_split="test")
    print(report.by_round(found), *report.below_start(found), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
