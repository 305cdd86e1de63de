"""Indexing a long list: seconds, names per second, and the memory of the driver and of its tasks.

    python benchmarks/scale_index.py N [--source cuts|names] [--again] [--no-tasks] [--cpus 4]

N names are listed, of which no file is there: a decoder of this module answers at once, so that all
the time is that of listing, tasks, scratch and tables. Names come from a cuts table in Parquet with
a row a file, or from a listing that takes them in no order, as a walk of folders does. With
``--again`` the same list is indexed once more, when all of it is known. With ``--no-tasks`` this
process makes what a chunk's task would leave in scratch, all columns at once: what is left is what
the driver takes. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pipeline import settings
from pipeline.clips import chunks, folders, segments
from pipeline.clips.decoding.decoder import MediaInfo, Source
from pipeline.clips.indexing import index
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import clip_id
from pipeline.config import ResourcesConfig
from pipeline.runtime.session import connect
from pipeline.storage import Location
from pipeline.telemetry.machine import about
from pipeline.telemetry.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
CLIPS_PER_FILE = 2
_STEP = 2_000_003  # a prime: names come in no order


class StubDecoder:
    """Says of every name that it is a file of `CLIPS_PER_FILE` windows."""

    on_gpu = False

    @classmethod
    def probe(cls, source: Source, timeout_s: float, name: str = "") -> MediaInfo:
        return MediaInfo(
            start_s=0.0,
            end_s=10.0 * CLIPS_PER_FILE,
            fps=25.0,
            width=320,
            height=240,
            rotation=0,
            has_video=True,
            has_audio=True,
            audio_rate=16_000,
            channels=1,
            size=1_000_000,
        )


def name(number: int) -> str:
    """As long as names of web videos are."""
    return f"shard-{number % 977:05d}/video-{number:012d}-of-a-channel-with-a-name.mp4"


def batches(n: int) -> Iterator[list[str]]:
    for start in range(0, n, 8192):
        yield [name(i * _STEP % n) for i in range(start, min(start + 8192, n))]


def write_cuts(place: Path, n: int) -> str:
    """A row a file."""
    schema = pa.schema([("uri", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())])
    with pq.ParquetWriter(place, schema) as writer:
        for start in range(0, n, 65_536):
            uris = [f"/media/{name(i)}" for i in range(start, min(start + 65_536, n))]
            none = pa.nulls(len(uris), pa.float64())
            writer.write_table(pa.table([pa.array(uris), none, none], schema=schema))
    return str(place)


def walk(n: int) -> Callable[[Any], None]:
    """In the place of a walk of a folder: it finds `n` names."""

    def everything(self: Any) -> None:
        for found in batches(n):
            self.listing.names.add(found)

    return everything


class Memory:
    """Peaks of resident memory, in MB: of this process, and of the largest and of all its tasks."""

    def __init__(self) -> None:
        self.driver = self.task = self.tasks = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.2):
            tasks = [_own_mb(p) for p in me.children(recursive=True) if _is_task(p)]
            self.driver = max(self.driver, _own_mb(me))
            self.task = max([self.task, *tasks])
            self.tasks = max(self.tasks, sum(tasks))


def _own_mb(process: psutil.Process) -> float:
    """Without what it shares with the object store."""
    try:
        found = process.memory_info()
        return (found.rss - found.shared) / 2**20
    except psutil.Error:
        return 0.0


def _is_task(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    except psutil.Error:
        return False


def without_tasks(
    work: chunks.ProbeChunk, numbers: Sequence[int], cost: Any, progress: Progress
) -> None:
    """In the place of `run_numbered`: no tasks, and no Python by the column."""
    for number in numbers:
        start = work.ends[number - 1] if number else 0
        rows = ray.get(work.rows[0]).slice(start, work.ends[number] - start)
        clips = clips_of(rows["uri"].to_pylist())
        probed = chunks.Probed(chunks.rejects_table([]), clips, Counter())
        work.places[number].write_bytes(probed.packed())
        progress.meter.add(None, done=len(rows), clips=len(clips))


def clips_of(uris: list[str]) -> pa.Table:
    """What `StubDecoder` leads to, as a chunk's task writes it."""
    info = vars(StubDecoder.probe(None, 0.0))  # type: ignore[arg-type]
    starts = [10.0 * n for n in range(CLIPS_PER_FILE)] * len(uris)
    each = [uri for uri in uris for _ in range(CLIPS_PER_FILE)]
    ids = [clip_id(uri, start, start + 10.0) for uri, start in zip(each, starts)]
    made = {"uri": each, "clip_id": ids, "start_s": starts, "end_s": [s + 10.0 for s in starts]}
    schema = chunks._CLIPS.with_metadata({chunks._COUNTS: b"{}"})
    columns = [
        pa.array(made[field.name], field.type)
        if field.name in made
        else pa.repeat(pa.scalar(info.get(field.name), field.type), len(each))
        for field in schema
    ]
    return pa.table(columns, schema=schema)


class Timed:
    """A function, and the seconds spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *given: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*given)
        finally:
            self.seconds += time.perf_counter() - began


def measured(source: str, run: Location, cpus: int, probe: Callable[..., Any]) -> dict[str, Any]:
    decoder = "benchmarks.scale_index:StubDecoder"
    config = settings.load([f"clips.decoder={decoder}", f"resources.local_cpus={cpus}"])
    probing = Timed(probe)
    with Memory() as memory, mock.patch.object(segments, "run_numbered", probing):
        began = time.perf_counter()
        report = index(source, run, config)
        seconds = time.perf_counter() - began
    return {
        "listed": report.listed,
        "known": report.already_known,
        "clips": report.clips,
        "seconds": round(seconds, 1),
        "names_per_s": round(report.listed / seconds),
        "of_which_probing_s": round(probing.seconds, 1),
        "names_per_s_without_probing": round(report.listed / (seconds - probing.seconds)),
        "driver_mb": round(memory.driver),
        "largest_task_mb": round(memory.task),
        "all_tasks_mb": round(memory.tasks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, help="how many names")
    parser.add_argument("--source", choices=("cuts", "names"), default="names")
    parser.add_argument("--again", action="store_true", help="index the same list once more")
    parser.add_argument("--no-tasks", action="store_true", help="probe in this process")
    parser.add_argument("--cpus", type=int, default=4)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    place = Path(tempfile.mkdtemp(prefix="scale-index-"))
    connect(ResourcesConfig(local_cpus=options.cpus, object_store_mb=512))
    try:
        (place / "media").mkdir()
        cuts = options.source == "cuts"
        source = write_cuts(place / "cuts.parquet", options.n) if cuts else str(place / "media")
        rss = psutil.Process().memory_info().rss / 2**20
        result: dict[str, Any] = {
            "names": options.n,
            "source": options.source,
            "inputs_per_segment": segments.INPUTS_PER_SEGMENT,
            "files_per_task": chunks.FILES_PER_TASK,
            "driver_mb_before": round(rss),
        }
        run = Location.of(place / "run")
        with ExitStack() as patched:
            stub = mock.patch.object(folders._LocalWalk, "everything", walk(options.n))
            patched.enter_context(stub)
            tasks = without_tasks if options.no_tasks else run_numbered
            result["fresh"] = measured(source, run, options.cpus, tasks)
            if options.again:
                result["all_known"] = measured(source, run, options.cpus, tasks)
        print(json.dumps(result | about("ray", "pyarrow", "numpy"), indent=1))
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
