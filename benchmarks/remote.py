"""Media in a distant bucket against the same media on disk: clips per second, requests, bytes.

    python benchmarks/remote.py [--media ../shared/media] [--repeats 3] [--delays 0 30 80]

A real moto server stands behind a proxy that delays every answer (`distant_s3`, which says what
it keeps). Decoding slots run as in the product, in a bare pool of one or two processes a core:
Ray would only add its own noise. Disk and delays take turns within one pool; a ratio is that of one
turn, and the median of the turns is reported. The servers use the same cores: their share of the
processors is reported, and is at the remote side's cost. Writes ``benchmarks/remote.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import boto3
import numpy as np
import pyarrow as pa
from distant_s3 import DistantServer, distant_server
from stream import LocalClips

from pipeline.clips.chunks import clips_of
from pipeline.clips.decoding.decoder import MediaFile
from pipeline.clips.decoding.isolation import close, probe_isolated
from pipeline.clips.fetching import fetch_for_probing
from pipeline.clips.rejects import Reject
from pipeline.clips.slots import Order
from pipeline.clips.stream import Slots
from pipeline.clips.table import DECODING_COLUMNS, SCHEMA
from pipeline.config import ClipsConfig, IndexConfig, VideoConfig
from pipeline.storage import Location
from pipeline.telemetry.machine import about

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "remote.json"
BATCH = 32
SMALL = ClipsConfig(video=VideoConfig(size=112, short_side=128, train_short_side=(128, 160)))
_IN_FRONT = {"movflags": "faststart"}
_UNCUT = {"start_s": None, "end_s": None, "label": None, "split": None}


def film(path: Path, seconds: int) -> None:
    """Ten megabytes of H.264 and AAC: noise over a moving pattern, 640×360, a keyframe in 2 s."""
    rng = np.random.default_rng(0)
    canvas = np.kron(rng.integers(0, 255, (80, 120, 3)), np.ones((9, 9, 1))).astype(np.uint8)
    noise = rng.integers(0, 24, (8, 360, 640, 3)).astype(np.uint8)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "50"})
        video.width, video.height, video.pix_fmt, video.bit_rate = 640, 360, "yuv420p", 1_300_000
        audio = out.add_stream("aac", rate=44_100)
        for n in range(seconds * 25):
            picture = canvas[n % 300 :, n % 400 :][:360, :640] // 2 + noise[n % 8]
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(video.encode(frame))
            tone = np.sin(np.arange(n * 1764, (n + 1) * 1764) / 20).astype(np.float32)[None]
            sound = av.AudioFrame.from_ndarray(tone / 2, "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 44_100, n * 1764, Fraction(1, 44_100)
            out.mux(audio.encode(sound))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def with_index_in_front(path: Path, to: Path) -> None:
    with av.open(str(path)) as film, av.open(str(to), "w", options=_IN_FRONT) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


def upload(server: DistantServer, files: Sequence[Path]) -> None:
    client = boto3.client("s3", endpoint_url=server.moto, region_name="us-east-1")
    client.create_bucket(Bucket="media")
    for file in files:
        client.put_object(Bucket="media", Key=file.name, Body=file.read_bytes())


def clips(places: Sequence[str]) -> LocalClips:
    """The clips of these files, in an order in which neighbours are of different files."""
    by_file: list[list[dict[str, Any]]] = []
    named = [MediaFile(Location.of(place)) for place in places]
    for place, file in zip(places, fetch_for_probing(named, 30.0)):
        info = probe_isolated(file)
        assert not isinstance(info, Reject), info
        made = clips_of(place, info, _UNCUT, IndexConfig())
        assert not isinstance(made, Reject), made
        by_file.append([{**row, "clip_index": 0} for row in made])
    close()
    count = min(map(len, by_file))
    rows = [made[(n + k) % count] for k in range(count) for n, made in enumerate(by_file)]
    table = pa.Table.from_pylist(rows, SCHEMA).select(DECODING_COLUMNS)
    return LocalClips(table)


_STAGES: dict[str, Slots] = {}


def begin(stages: dict[str, Slots]) -> None:
    _STAGES.update(stages)


def decode(task: tuple[str, int]) -> int:
    kind, slot = task
    batch = _STAGES[kind].decoded(slot)
    assert batch["rejects"] == "[]", batch["rejects"]
    return int(batch["has_video"].sum())


def turn(workers: Any, kind: str, slots: int) -> float:
    """Clips a second."""
    began = time.perf_counter()
    done = sum(workers.imap_unordered(decode, [(kind, slot) for slot in range(slots)]))
    return done / (time.perf_counter() - began)


def measure(
    server: DistantServer, sides: dict[str, LocalClips], options: argparse.Namespace, tasks: int
) -> list[dict[str, Any]]:
    """One row a delay, of so many processes."""
    length = len(sides["disk"].table) // BATCH * BATCH
    order = Order(length, BATCH)
    stages = {
        name: Slots(side, order, SMALL, ("video", "audio"))  # type: ignore[arg-type]
        for name, side in sides.items()
    }
    rates: dict[Any, list[float]] = {kind: [] for kind in ("disk", *options.delays)}
    did: dict[int, dict[str, float]] = {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(tasks, begin, (stages,)) as workers:
        server.delay(0)
        for kind in stages:
            turn(workers, kind, 2 * tasks)  # starts the decoders
        for _ in range(options.repeats):
            rates["disk"].append(turn(workers, "disk", order.num_slots))
            for delay in options.delays:
                before = server.delay(delay / 1e3)["cpu_s"]
                rates[delay].append(turn(workers, "remote", order.num_slots))
                did[delay] = server.delay(0)
                did[delay]["cpu_s"] -= before
    rows = []
    for delay in options.delays:
        ratios = [ours / disk for ours, disk in zip(rates[delay], rates["disk"])]
        seconds = length / rates[delay][-1]
        rows.append(
            {
                "tasks": tasks,
                "delay_ms": delay,
                "disk_clips_per_s": round(statistics.median(rates["disk"]), 1),
                "clips_per_s": round(statistics.median(rates[delay]), 1),
                "of_disk": round(statistics.median(ratios), 3),
                "of_disk_from_to": [round(min(ratios), 3), round(max(ratios), 3)],
                "requests_per_clip": round(did[delay]["requests"] / length, 2),
                "kb_per_clip": round(did[delay]["bytes"] / length / 1e3),
                "proxy_share_of_processors": round(
                    did[delay]["cpu_s"] / seconds / (os.cpu_count() or 1), 3
                ),
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    names = ["case", "tasks", "delay_ms", "disk_clips_per_s", "clips_per_s", "of_disk"]
    names += ["requests_per_clip", "kb_per_clip", "proxy_share_of_processors"]
    print("|", " | ".join(names), "|")
    print("|---|" + "--:|" * (len(names) - 1))
    for row in rows:
        print("|", " | ".join(str(row[name]) for name in names), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path, default=ROOT.parent / "shared" / "media")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 30, 80])
    parser.add_argument("--sentences", type=int, default=480)
    parser.add_argument("--films", type=int, default=48, help="copies of one, as different files")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    rows = []
    with tempfile.TemporaryDirectory() as folder, distant_server() as server:
        sentences = sorted((options.media.resolve() / "words" / "sentences").glob("*.mp4"))
        cases = {"sentences of 153 KB": sentences[: options.sentences]}
        behind, front = Path(folder) / "behind.mp4", Path(folder) / "front.mp4"
        film(behind, 60)
        with_index_in_front(behind, front)
        for where, first in (("in front", front), ("behind", behind)):
            copies = [first.with_stem(f"{first.stem}-{number}") for number in range(options.films)]
            for copy in copies:
                copy.hardlink_to(first)
            cases[f"films of 10 MB, index {where}"] = copies
        upload(server, [file for files in cases.values() for file in files])
        for name, files in cases.items():
            keys = [server.uri(f"media/{file.name}") for file in files]
            sides = {}
            for kind, places in (("disk", [str(file) for file in files]), ("remote", keys)):
                sides[kind] = clips(places)
            size = sum(file.stat().st_size for file in files) / len(files)
            for tasks in (cores, 2 * cores):
                for row in measure(server, sides, options, tasks):
                    rows.append({"case": name, "kb": round(size / 1e3), **row})
                    print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    report = {"about": about("av", "obstore", "moto"), "batch": BATCH, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
