"""Memory of a decode worker against the clips it has read.

    python benchmarks/decode_memory.py --media ../shared/media [--clips 20000]

Reads clips from all files that play, at random times, scales and crops, with every file of the
zoo, broken ones included, and writes resident memory every 1,000 clips to `decode_memory.json`:
of this process (``plain``), or, with --isolated, of the decoding process (``isolated``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import av

from pipeline.clips.decoding import isolation
from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, decode_clips, probe
from pipeline.clips.decoding.decoder import MediaInfo
from pipeline.clips.decoding.isolation import decode_clips_isolated
from pipeline.config import ClipsConfig, VideoConfig
from pipeline.storage import Location
from pipeline.telemetry.machine import about

HERE = Path(__file__).parent
VIDEO = VideoConfig(size=112, short_side=128, train_short_side=(128, 160))
CONFIG = ClipsConfig(video=VIDEO)


def resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=HERE.parent.parent / "shared" / "media")
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--largest-mb", type=float, default=1.5, help="leave out larger files")
    parser.add_argument("--isolated", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "decode_memory.json")
    arguments = parser.parse_args()

    files = [
        p
        for folder in ("zoo", "words", "esc", "sky")
        for p in (arguments.media / folder).rglob("*.*")
    ]
    files = [p for p in files if p.suffix not in (".csv", ".txt", ".md")]
    files = sorted(p for p in files if p.stat().st_size < arguments.largest_mb * 2**20)
    ranges: dict[Path, tuple[float, float]] = {}
    for path in files:
        info = probe(Location.of(path))
        good = isinstance(info, MediaInfo)
        ranges[path] = (info.start_s, info.end_s) if good else (0.0, 1.0)

    rng = random.Random(5)
    decode = decode_clips_isolated if arguments.isolated else decode_clips
    series = []
    clips = good_clips = 0
    began = time.monotonic()
    while clips < arguments.clips:
        path = rng.choice(files)
        asked = [
            ClipRequest(
                rng.uniform(*ranges[path]), rng.randint(128, 160), rng.random(), rng.random()
            )
            for _ in range(4)
        ]
        for result in decode(Location.of(path), asked, CONFIG):
            clips += 1
            good_clips += isinstance(result, DecodedClip)
            if clips % 1000 == 0:
                child = isolation._CHILD
                process = child.process.pid if arguments.isolated and child else os.getpid()
                series.append((clips, round(resident_mb(process), 1)))
                print(*series[-1], flush=True)
                report(arguments, len(files), clips, good_clips, began, series)


def report(arguments, files: int, clips: int, decoded: int, began: float, series: list) -> None:
    """Write what is known so far, so that a run that is cut short is worth something."""
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    known["isolated" if arguments.isolated else "plain"] = {
        "about": about("av", "numpy"),
        "ffmpeg": av.ffmpeg_version_info,
        "files": files,
        "clips": clips,
        "decoded": decoded,
        "seconds": round(time.monotonic() - began, 1),
        "resident_mb": series,
    }
    arguments.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
