"""See and hear what the clusters mean: ``python jobs/report.py RUN OUT [options]``.

RUN is a run of `jobs/pretrain.py`, finished or not. OUT becomes a folder of web pages. Open its
``index.html``: it needs no server and no network. The pages show how the run went, the clusters of
both modalities with their typical clips, which sounds go with which pictures, a map, the nearest
clips to each, and the rejects. The same command brings the folder up to date.

Of many clips a sample is shown. Faces and voices are in the folder; ``--no-media`` leaves them out.
``--serve`` shows a run that is still going, on this machine only, and refreshes after each round.
"""

from __future__ import annotations

import argparse
import math

from pipeline.errors import UserError
from pipeline.runtime.places import refuse_passing
from pipeline.runtime.session import connect, run_job
from pipeline.storage import Location
from pipeline.telemetry.console import say

_LEAST, _MOST = 1, 1_000_000  # clips shown


def parsed(arguments: list[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: a number that cannot be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("out", help="folder to write")
    parser.add_argument(
        "--clips", type=int, default=200_000, metavar="N", help="shown at most (default: 200000)"
    )
    parser.add_argument(
        "--playable",
        type=int,
        default=1200,
        metavar="N",
        help="that can be seen and heard, 10 to 30 KB each (default: 1200)",
    )
    parser.add_argument(
        "--megabytes",
        type=float,
        default=25,
        metavar="MB",
        help="that their media take at most (25)",
    )
    parser.add_argument("--no-media", action="store_true", help="no faces and voices")
    parser.add_argument("--map", choices=("pca", "umap"), default="pca", help="(default: pca)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument(
        "--serve", type=int, nargs="?", const=8000, metavar="PORT", help="on 127.0.0.1 (8000)"
    )
    options = parser.parse_args(arguments)
    if not _LEAST <= options.clips <= _MOST:
        raise UserError(f"--clips is {options.clips:,}; it must be from {_LEAST} to {_MOST:,}")
    if min(options.playable, options.seed) < 0:
        raise UserError("--playable and --seed must not be negative")
    if not 0 <= options.megabytes < math.inf:
        raise UserError(f"--megabytes is {options.megabytes:g}; it must be a number from 0 on")
    return options


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    refuse_passing([options.run, options.out])
    # Imported when the arguments are known to be right: torch takes seconds.
    from pipeline.report.assembly import ReportTask, make_report
    from pipeline.report.projection import check_projection
    from pipeline.report.served import serve
    from pipeline.run import Run

    check_projection(options.map)
    run, out = Run.existing(options.run), Location.of(options.out)
    connect(run.config.resources, run.location)
    task = ReportTask(
        run,
        out,
        most_shown=options.clips,
        playable=options.playable,
        media_bytes=int(options.megabytes * 1e6),
        with_media=not options.no_media,
        projection=options.map,
        seed=options.seed,
    )
    if options.serve is not None:
        serve(task, options.serve)
    report = make_report(task)
    say(f"{report.clips:,} clips, {report.playable:,} of them to see and hear")
    say(f"report: open {report.page}")


if __name__ == "__main__":
    run_job(main)
