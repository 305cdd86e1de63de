"""Evaluate a run against its clips' labels: ``python jobs/evaluate.py RUN``.

Prints, by round, the linear-probe accuracy of both frozen encoders (beside the random ones of
round 0) and how well the clusters agree with the labels, and writes ``evaluation.json`` there.
"""

from __future__ import annotations

import argparse

from pipeline.progress import say
from pipeline.run import Run
from pipeline.session import connect, run_job


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("--rounds", type=int, nargs="*", help="which rounds (default: all)")
    parser.add_argument("--test-split", default="test", help="value of the split column to test on")
    options = parser.parse_args(arguments)
    run = Run.existing(options.run)
    last = run.finished_round().number
    numbers = [run.finished_round(number).number for number in options.rounds or range(last + 1)]
    # Imported when the run is known to be there: torch takes seconds.
    from pipeline.evaluation.rounds import as_table, evaluate_rounds

    connect(run.config.resources)
    report = evaluate_rounds(run, numbers, options.test_split)
    (run.location / "evaluation.json").write_json(report)
    chance = report["rounds"][0]["probe"]["video"]["chance"]
    say(
        f"\n{report['method']}, k {report['k']}: {report['clips']:,} clips, "
        f"{report['classes']} classes, chance {chance:.3f}\n{as_table(report)}"
    )


if __name__ == "__main__":
    run_job(main)
