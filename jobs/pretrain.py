"""Pretrain: ``python jobs/pretrain.py CONFIG.yaml [more.yaml] [key=value …]``.

For example ``python jobs/pretrain.py configs/small.yaml run=runs/a method=xdc clustering.k=64``.
The run directory is one that ``jobs/index.py`` filled. The same command again goes on from where
an earlier one stopped. ``rounds=+2`` adds two rounds to a finished run, for example after more
media were indexed into it. Inside ``ray job submit`` it uses that cluster, else it starts Ray here.

``--plan`` trains nothing: it tries some clips and steps, prints what the run will take, and keeps
that as ``plan.json`` in the run directory. The run then ends with forecast against actual.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from contextlib import nullcontext, redirect_stdout
from functools import partial

from pipeline import settings
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.runtime.session import connect, run_job
from pipeline.setting_comments import SettingsParser
from pipeline.telemetry.console import say


def main(arguments: list[str]) -> None:
    began = time.monotonic()
    parser = SettingsParser(__doc__)
    parser.add_argument("settings", nargs="*", help="YAML files and key=value overrides")
    parser.add_argument("--plan", action="store_true", help="say what the run will take, and exit")
    parser.add_argument("--prices", default="", metavar="YAML", help="with --plan: price table")
    parser.add_argument(
        "--nodes", default="", metavar="ROLE=N,…", help="with --plan: other numbers of nodes"
    )
    parser.add_argument("--json", action="store_true", help="with --plan: for other programs")
    options = parser.parse_intermixed_args(arguments)
    lone = [name for name in ("prices", "nodes", "json") if getattr(options, name)]
    if lone and not options.plan:
        raise UserError(f"--{lone[0]} goes with --plan")
    given, more = settings.more_rounds(options.settings)
    config = settings.load(given)
    # Imported when the settings are known to be right: torch takes seconds.
    from pipeline.planning.outcome import compare
    from pipeline.rounds import pretrain
    from pipeline.run import Run

    if more:
        config = Run(Run.place(config), config).with_more_rounds(more)

    if options.plan:
        plan(config, options, began)
        return
    connect(config.resources, config.run, config.store.place)
    pretrain(config, partial(compare, job_s=time.monotonic() - began))


def plan(config: Config, options: Namespace, began: float) -> None:
    """Print the plan of a run; with ``--json`` alone on standard output."""
    from pipeline.planning.page import as_page
    from pipeline.planning.plan import Asked, make_plan

    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        connect(config.resources, config.run, config.store.place)
        asked = Asked(options.prices, options.nodes, time.monotonic() - began)
        found = make_plan(config, asked)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        say(as_page(found))


if __name__ == "__main__":
    run_job(main)
