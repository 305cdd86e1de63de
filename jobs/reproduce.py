"""Test the paper's findings again: ``python jobs/reproduce.py OUT --preset cpu [--words CSV]``.

Trains and examines encoders in every way that the paper's findings (F1 to F7) and our own need,
for several seeds, on two worlds: a generated one, and with ``--words`` the words that a talker
says. The cuts table of the words has the columns ``uri, start_s, end_s, label, slot, split``; it is
split by sentence into train, val and test. `pipeline/reproduction/findings.py` lists the trials.

The result of each trial is a line in RESULTS/<world>.jsonl. A trial that has its line is not run
again, so a command that was killed goes on when repeated. Only one command at a time may write to
a results folder: give each machine its own and join the files with ``cat``.
``python -m benchmarks.findings RESULTS`` makes tables and plots.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from pipeline.errors import UserError
from pipeline.runtime.session import connect, run_job
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.console import say


def main(arguments: list[str]) -> None:
    # Imported here because torch takes seconds to load, and Ray's own processes do not need it.
    from pipeline.reproduction.findings import FINDINGS, PRESETS, trials_of
    from pipeline.reproduction.results import read_results, write_result
    from pipeline.reproduction.trials import run_trial
    from pipeline.reproduction.worlds import generated, words

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", help="folder for everything")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--findings", nargs="+", choices=[f.key for f in FINDINGS])
    parser.add_argument("--trials", nargs="+", help="only these, by name")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--worlds", nargs="+", choices=("generated", "words"))
    parser.add_argument("--words", metavar="CSV", help="cuts table of the words")
    parser.add_argument(
        "--others", nargs="+", default=(), metavar="FOLDER", help="media unrelated to the words"
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=(),
        metavar="KEY=VALUE",
        help="for all trials, after the preset's; results name them",
    )
    parser.add_argument("--results", help="folder of the results (default: OUT/results)")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    preset = replace(preset, added=tuple(options.settings))
    out = Location.of(options.out)
    results = Location.of(options.results) if options.results else out / "results"
    trials = trials_of(options.findings or preset.findings)
    if options.trials:
        names = [trial.name for trial in trials]
        for name in options.trials:
            if name not in names:
                raise UserError(f"there is no trial {name!r} here; there is {', '.join(names)}")
        trials = [trial for trial in trials if trial.name in options.trials]
    if "words" in (options.worlds or ()) and not options.words:
        raise UserError("the world of words needs its cuts table: add --words CSV")
    if options.others and not options.words:
        raise UserError("--others are media beside the words: add --words CSV")
    wanted = options.worlds or ["generated", *(["words"] if options.words else [])]
    connect(load([*preset.settings, *preset.added]).resources, out)
    for seed in options.seeds or preset.seeds:
        for name in wanted:
            real = name == "words"
            world = (
                words(options.words, options.others)
                if real
                else generated(seed, **preset.generated)
            )
            place = results / f"{name}.jsonl"
            for trial in trials:
                key = (preset.name, trial.name, seed)
                if options.trials and not trial.fits(world):
                    say(f"{name}: {trial.name} is left out, for want of its labels or of --others")
                if trial.fits(world) and key not in read_results(place):
                    write_result(place, run_trial(trial, world, seed, preset, out))
                    say(f"{place}: {trial.name}, seed {seed}")


if __name__ == "__main__":
    run_job(main)
