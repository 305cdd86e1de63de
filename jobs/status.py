"""What a run does or did: ``python jobs/status.py RUN [--json]``.

RUN is a run directory, local or in a bucket. It is only read, whether something works on it or not:
stage, rate and time left, rounds, rejects by reason, every attempt and how it ended, and
node-hours by role. No Ray is needed.
"""

from __future__ import annotations

import argparse
import json

from pipeline.runtime.session import run_job
from pipeline.status import as_text, status_of
from pipeline.storage import Location
from pipeline.telemetry.console import say


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("--json", action="store_true", help="for other programs")
    options = parser.parse_args(arguments)
    found = status_of(Location.of(options.run))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for line in as_text(found).splitlines():
            say(line)


if __name__ == "__main__":
    run_job(main)
