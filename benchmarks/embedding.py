"""A frozen encoder over many clips: `pipeline.embedding.embed.embed` against the bare work.

    python benchmarks/embedding.py [--clips 10000] [--repeats 3]

The bare work: a pool of as many processes as there are cores decodes the same batches, and the main
process runs both encoders on them. `embed` is timed with all it does besides: its start, progress,
shards and records on disk. Contenders take turns; the ratio is of each one's best. Writes
``benchmarks/embedding.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray
import torch
from stream import BOTH, pool

from pipeline import encoders
from pipeline.clips.indexing import index
from pipeline.clips.slots import Order
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.encoders.frontend import FramesToInput, LogMel
from pipeline.runtime.session import connect
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "embedding.json"


def write_cuts(media: Path, clips: int, place: Path) -> Path:
    """Overlapping windows of 0.6 s over the sentences of the words data, labelled by sentence."""
    files = sorted((media / "words" / "sentences").glob("*.mp4"))
    each = -(-clips // len(files))
    starts = np.linspace(0.2, 2.2, each)
    rows = [(str(f), s, s + 0.6, f.stem[0]) for s in starts for f in files][:clips]
    names = ("uri", "start_s", "end_s", "label")
    pa.parquet.write_table(pa.table(dict(zip(names, map(list, zip(*rows))))), place)
    return place


def bare(clips: ClipTable, config: Config, weights: Location) -> float:
    networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
    encoders.load_weights(networks, weights)
    networks.eval()
    front = {"video": FramesToInput(), "audio": LogMel(config.clips.audio)}
    began = time.perf_counter()
    order = Order(len(clips), config.embedding.batch_size)
    features = []
    with torch.inference_mode():
        for batch in pool(clips, order, config, os.cpu_count() or 1):
            for modality in BOTH:
                inputs = front[modality](torch.from_numpy(batch[modality][0]))
                features.append(networks[modality](inputs).half().numpy())
    return time.perf_counter() - began


def ours(clips: ClipTable, config: Config, weights: Location, place: Location) -> float:
    began = time.perf_counter()
    out = {m: place / m for m in BOTH}
    embed(EmbeddingTask(clips.publish(), weights, out, place / "rejects", config, "embed"))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path, default=ROOT.parent / "shared" / "media")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = load(["configs/words.yaml", "store.enabled=false"])
    connect(config.resources)
    seconds: dict[str, list[float]] = {"bare": [], "embed": []}
    with tempfile.TemporaryDirectory() as folder:
        run = Location.of(folder)
        cuts = write_cuts(options.media.resolve(), options.clips, Path(folder) / "cuts.parquet")
        index(str(cuts), run, config)
        clips = ClipTable.open(run / "clips")
        weights = run / "encoders.safetensors"
        encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
        for turn in range(options.repeats):
            seconds["bare"].append(round(bare(clips, config, weights), 2))
            seconds["embed"].append(round(ours(clips, config, weights, run / f"out{turn}"), 2))
            print({name: values[-1] for name, values in seconds.items()}, flush=True)
    ray.shutdown()
    best = {name: min(values) for name, values in seconds.items()}
    report = {
        "about": about("torch", "ray", "av"),
        "clips": len(clips),
        "seconds": seconds,
        "overhead": round(best["embed"] / best["bare"] - 1, 3),
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(f"overhead {report['overhead']:.1%}")


if __name__ == "__main__":
    main()
