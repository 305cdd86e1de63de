"""Runs that go well and runs that go wrong, for the report's alarms.

    python benchmarks/alarms.py WORDS_CSV OUT good   # and: silent, "wrong anchor", "handed over"

Each case is a short real run on words, `configs/words.yaml` with what it names, of which one thing
is wrong, or nothing. What their reports measure goes to ``benchmarks/alarms.json``;
tests/report/test_judgements.py asks which alarms fire on it. *silent*: nine files of ten have lost
their sound, so that most clips of the audio are the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np

from pipeline.clips.table import ClipTable
from pipeline.report import clustering_measures
from pipeline.report.clustered import clusterings_of
from pipeline.report.seen import seen_in
from pipeline.report.shown import ShownClips
from pipeline.run import Run
from pipeline.runtime.session import connect
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).resolve().parents[1]
SHORT = ["clips.split=train", "learning.epochs=2"]
CASES = {
    "good": ["method=anchored_audio", "rounds=2"],
    "wrong anchor": ["method=anchored_video", "rounds=1"],
    "handed over": ["method=xdc", "rounds=2"],
    "silent": ["method=anchored_audio", "rounds=2"],
}


def silenced(words: Path, folder: Path) -> Path:
    """The same cuts; of nine files in ten a copy without sound but with its sound track."""
    with words.open() as stream:
        rows = list(csv.DictReader(stream))
    files = list(dict.fromkeys(row["uri"] for row in rows))
    (folder / "media").mkdir(parents=True, exist_ok=True)
    now = {uri: words.parent / uri for uri in files}
    for number, uri in enumerate(files):
        if number % 10:
            now[uri] = folder / "media" / Path(uri).name
            _silence(words.parent / uri, now[uri])
    place = folder / "cuts.csv"
    with place.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"uri": now[row["uri"]]} for row in rows)
    return place


def _silence(source: Path, target: Path) -> None:
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        picture = given.streams.video[0]
        copied = made.add_stream_from_template(picture)
        sound = made.add_stream("aac", rate=given.streams.audio[0].rate, layout="mono")
        for packet in given.demux(picture):
            if packet.dts is not None:
                packet.stream = copied
                made.mux(packet)
        seconds = float(given.duration or 0) / av.time_base
        for at in range(0, int(seconds * sound.rate), 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts = sound.rate, at
            made.mux(sound.encode(frame))
        made.mux(sound.encode(None))


def job(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments], check=True)


def measured(case: str, words: Path, folder: Path) -> list[dict[str, object]]:
    """The run's clusterings, as its report measures them."""
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run"
    cuts = silenced(words, folder) if case == "silent" else words
    if not run.exists():
        job("index", str(cuts), str(run))
    job("pretrain", str(ROOT / "configs" / "words.yaml"), f"run={run}", *SHORT, *CASES[case])
    return measures_of(run)


def measures_of(place: Path) -> list[dict[str, object]]:
    run = Run.existing(str(place))
    connect(run.config.resources, run.location)
    table = ClipTable.open(run.clips)
    shown = ShownClips.of(table, np.arange(len(table)), [])
    seen = seen_in(run, clusterings_of(run, len(table), seed=0), shown)
    return [asdict(each) for each in clustering_measures.measured(seen, shown)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("case", choices=CASES)
    options = parser.parse_args()
    case, place = options.case, options.out.resolve() / options.case.replace(" ", "-")
    found = measured(case, options.words.resolve(), place)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results[case] = {
        "settings": [*SHORT, *CASES[case]],
        "measures": found,
        "about": about("torch", "ray", "av"),
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
