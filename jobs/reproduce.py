"""Test the paper's findings again: ``python jobs/reproduce.py OUT --preset cpu [--words CSV]``.

Trains and examines encoders in every way that the findings F1 to F7, and our own, need
(`pipeline/reproduction/findings.py`), for several seeds, on two worlds: one that is generated, and
words that a talker says, if ``--words`` names their cuts table (``uri, start_s, end_s, label, slot,
split``; split by sentence into train, val and test).

Killed at any instant, the same command goes on. Every trial leaves a JSON file in RESULTS;
``python benchmarks/findings.py RESULTS`` makes tables and plots of them.
"""

from __future__ import annotations

import argparse

from pipeline.errors import UserError
from pipeline.runtime.session import connect, run_job
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.progress import say


def main(arguments: list[str]) -> None:
    # Imported here: torch takes seconds, which Ray's own processes need not wait for.
    from pipeline.reproduction.findings import FINDINGS, PRESETS, trials_of
    from pipeline.reproduction.trials import play
    from pipeline.reproduction.worlds import generated, words

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", help="folder for everything")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--findings", nargs="+", choices=[f.key for f in FINDINGS])
    parser.add_argument("--trials", nargs="+", help="only these of them, by name")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--worlds", nargs="+", choices=("generated", "words"))
    parser.add_argument("--words", metavar="CSV", help="cuts table of the real world")
    parser.add_argument("--results", help="folder of the JSON files (default: OUT/results)")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
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
    wanted = options.worlds or ["generated", *(["words"] if options.words else [])]
    connect(load(list(preset.settings)).resources)
    for seed in options.seeds or preset.seeds:
        for name in wanted:
            real = name == "words"
            world = words(options.words) if real else generated(seed, **preset.generated)
            for trial in trials:
                place = results / name / f"{trial.name}-{seed}.json"
                if not place.exists() and trial.fits(world):
                    settings = preset.settings + (preset.short if trial.short else ())
                    place.write_json(play(trial, world, seed, settings, out))
                    say(f"{place}")


if __name__ == "__main__":
    run_job(main)
