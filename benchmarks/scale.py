"""What grows with the number of clips: ``python benchmarks/scale.py PART … [--clips N]``.

The real control path (Ray, storage, processes) over made-up tables; decoding, encoding and steps
are stubs of set size and time. Parts, and what each gives:

    published    the clips table in the object store: bytes, seconds
    schedule     drawing the batches of an epoch: seconds, memory of the task, bytes in the store
    bookkeeping  which clips an embedding pass still has to take: seconds, memory of the driver
    shards       what one of 16, 64 or 256 shards of k-means reads of features in no order
    iteration    a pass of k-means, a clip, on one thread
    feed         batches to 1, 2, 4 and 8 training workers that take no time: clips a second, and
                 the busiest process's processor time a clip
    order        one worker's batches in their order against any order, of a million slots
    embed        encoder actors that take no time, of 1, 2 and 4 datasets: the same
    nodes        a cluster of five: what the object stores of decode nodes hold

``all`` is all of them. Adds to scale.json, by part and number of clips; `scale_page.py` puts the
parts together in docs/scale.md. Indexing has a script of its own, `scale_index.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import timeit
from pathlib import Path

import ray
import scale_feed
import scale_tables

from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
_IN_TABLES = ("published", "schedule", "bookkeeping", "shards", "iteration")
PARTS = {name: getattr(scale_tables, name) for name in _IN_TABLES}
_FEEDS = ("feed", "order", "embed", "nodes")
PARTS |= {name: getattr(scale_feed, name) for name in _FEEDS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "all"])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--slots", type=int, default=6000, help="that are taken; order: a fifth")
    parser.add_argument("--size", type=int, default=224, help="of a picture: slots a task follow")
    parser.add_argument("--clip-bytes", type=int, default=1000, help="that really travel")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    # Processes that wait stay, as in a Ray that a job starts: a new one takes seconds to import.
    os.environ.setdefault("RAY_num_workers_soft_limit", "20")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(RESULT.parents[1]), str(RESULT.parent)])
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        clips = scale_tables.table(options.clips, Path(folder))
        print(f"table of {options.clips:,} clips in {time.monotonic() - began:.0f} s", flush=True)
        for part in PARTS if "all" in options.parts else options.parts:
            ray.init(
                num_cpus=8,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=scale_tables.store_bytes(options.clips),
            )
            result = PARTS[part](clips, options)
            ray.shutdown()
            # A machine that others use as well is not equally fast at all hours.
            result["ns_an_addition"] = round(100 * timeit.timeit("n += 1", "n = 0", number=10**7))
            print(part, json.dumps(result), flush=True)
            found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
            name = f"{options.clips:,} clips" + f", {options.size}²" * (part in _FEEDS)
            found.setdefault(part, {})[name] = result
            found["about"] = about("ray", "pyarrow", "numpy")
            RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
