"""The clip store against decoding again: clips per second and core, bytes, and when it pays.

    python benchmarks/store.py [--media ../shared/media] [--clips 300]

Both readers draw the same training samples in the same process, file by file in turn. Writes
``benchmarks/store.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.decoding.decode import DecodedClip
from pipeline.clips.decoding.isolation import decode_clips_isolated, probe_isolated, shrink_isolated
from pipeline.clips.rejects import Reject
from pipeline.clips.sampling import augmented, reach
from pipeline.config import AudioConfig, ClipsConfig, VideoConfig
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "store.json"
# The paper's pictures, and half of them.
LARGE = ClipsConfig()
HALF = ClipsConfig(
    video=VideoConfig(size=112, short_side=128, train_short_side=(128, 160)), audio=AudioConfig()
)
Window = tuple[Location, float, float]


def words(media: Path) -> list[Window]:
    with (media / "words" / "words.csv").open() as table:
        return [
            (Location.of(media / "words" / row["uri"]), float(row["start_s"]), float(row["end_s"]))
            for row in csv.DictReader(table)
        ]


def whole(files: list[Path]) -> list[Window]:
    """Whole files, in windows of at most ten seconds."""
    windows = []
    for file in files:
        info = probe_isolated(Location.of(file))
        if not isinstance(info, Reject):
            cuts = np.arange(info.start_s, max(info.end_s - 1, info.start_s + 0.1), 10.0)
            windows += [(Location.of(file), s, min(s + 10, info.end_s)) for s in cuts.tolist()]
    return windows


def measure(
    windows: list[Window], config: ClipsConfig, codec: str, clips: int, draws: int
) -> dict[str, Any]:
    """Seconds a clip of either reader, `draws` training samples of each of `clips` windows."""
    rng = np.random.default_rng(0)
    chosen = [windows[i] for i in rng.permutation(len(windows))[:clips]]
    unshifted = config.model_copy(
        update={"video": config.video.model_copy(update={"region": None})}
    )
    spent = {"fill": 0.0, "direct": 0.0, "stored": 0.0}
    size = media_s = read = 0.0
    for number, (source, start_s, end_s) in enumerate(chosen):
        begin = time.perf_counter()
        origin_s, reach_s = reach(start_s, end_s, config)
        small = shrink_isolated(source, origin_s, reach_s, config, codec)
        spent["fill"] += time.perf_counter() - begin
        if isinstance(small, Reject):
            continue
        size, media_s, read = size + len(small), media_s + end_s - start_s, read + 1
        for draw in range(draws):
            request = augmented(start_s, end_s, config, True, True, (0, draw, number)).request
            begin = time.perf_counter()
            (direct,) = decode_clips_isolated(source, [request], config)
            between = time.perf_counter()
            moved = replace(request, centre_s=request.centre_s - origin_s)
            (stored,) = decode_clips_isolated(small, [moved], unshifted)
            spent["stored"] += time.perf_counter() - between
            spent["direct"] += between - begin
            assert isinstance(direct, DecodedClip), direct
            assert isinstance(stored, DecodedClip), stored
    per_clip = {name: seconds / read for name, seconds in spent.items()}
    direct_s, stored_s = per_clip["direct"] / draws, per_clip["stored"] / draws
    return {
        "clips": int(read),
        "unstored": len(chosen) - int(read),
        "direct_ms": round(1e3 * direct_s, 2),
        "stored_ms": round(1e3 * stored_s, 2),
        "fill_ms": round(1e3 * per_clip["fill"], 2),
        "speed_up": round(direct_s / stored_s, 2),
        "bytes_per_clip": round(size / read),
        "mb_per_hour_of_windows": round(size / media_s * 3600 / 1e6),
        # Passes over the clips after which filling the store has cost less than decoding again.
        "pays_after": round(per_clip["fill"] / (direct_s - stored_s), 1)
        if direct_s > stored_s
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path, default=ROOT.parent / "shared" / "media")
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    media = options.media.resolve()
    sky = whole(sorted((media / "sky").rglob("*.mp4")))
    originals = whole(sorted((media / "words" / "original").glob("*.mpg")))
    cases: dict[str, tuple[list[Window], ClipsConfig]] = {
        "words, fixed region, 40²": (words(media), load(["configs/words.yaml"]).clips),
        "sky: 10 s of 320×256 H.264, 112²": (sky, HALF),
        "talker: 3 s of 360×288 MPEG-1, 112²": (originals, HALF),
        "sky, 224²": (sky, LARGE),
    }
    rows = []
    for name, (windows, config) in cases.items():
        for codec in ("jpeg", "h264"):
            row = measure(windows, config, codec, options.clips, options.draws)
            rows.append({"case": name, "codec": codec, **row})
            print(json.dumps(rows[-1], ensure_ascii=False))
    report = {"about": about("av", "numpy"), "draws_per_clip": options.draws, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
