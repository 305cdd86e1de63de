"""The vectors that k-means is timed on, as feature files: ``python kmeans_vectors.py FOLDER …``"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.storage import Location


def make(folder: str, data: str, n: str, d: str, k: str) -> None:
    """Vectors of length 1 as float16 feature files."""
    rows, dim, clusters = int(n), int(d), int(k)
    if data == "encoder":
        write_encoded(Path(folder), rows, dim)
    else:
        write_features(Path(folder), data, rows, dim, clusters)


def write_encoded(folder: Path, n: int, d: int) -> None:
    """What a random ResNet-18 (512 numbers) makes of windows of the shared media's real audio.

    Principal components of it where fewer numbers are asked for. Encoded once, kept beside.
    """
    kept = Path(tempfile.gettempdir()) / f"xdc-encoded-{n}.npy"
    if not kept.exists():
        np.save(kept, encoded_audio(n))
    x = np.load(kept)
    x -= x.mean(axis=0)
    if d < x.shape[1]:
        _, _, components = np.linalg.svd(x[:20_000], full_matrices=False)
        x = x @ components[:d].T
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    step = 1 << 16
    for number, start in enumerate(range(0, n, step)):
        some = x[start : start + step].astype(np.float16)
        values = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), d)
        table = pa.table({"clip_index": np.arange(start, start + len(some)), "features": values})
        (Location.of(folder) / "features" / f"part-{number:05d}.parquet").write_table(table)


def encoded_audio(n: int) -> np.ndarray:
    """float32 [n, 512] of random windows of 1 s."""
    import torch

    from pipeline import encoders
    from pipeline.clips.decoding.decode import ClipRequest, decode_clips
    from pipeline.config import AudioConfig, ClipsConfig, EncoderConfig
    from pipeline.encoders.frontend import LogMel

    torch.set_num_threads(os.cpu_count() or 1)
    media = Path(__file__).resolve().parents[2] / "shared" / "media"
    whole = ClipsConfig(audio=AudioConfig(window_s=3.0))
    files = sorted((media / "words" / "sentences").glob("*.mp4")) + sorted(
        (media / "esc").rglob("*.ogg")
    )
    waves = []
    for file in files:
        (clip,) = decode_clips(Location.of(file), [ClipRequest(1.5, 256, video=False)], whole)
        waves.append(clip.audio)
    config = AudioConfig(window_s=1.0)
    front = LogMel(config)
    network = encoders.build(EncoderConfig(audio="resnet18", video="r2plus1d_small"), seed=0)[
        "audio"
    ].train()
    random = np.random.default_rng(0)
    out = np.empty((n, 512), np.float32)
    with torch.inference_mode():
        for start in range(0, n, 256):
            count = min(256, n - start)
            file, at = random.integers(len(waves), size=count), random.integers(32_000, size=count)
            batch = np.stack([waves[f][a : a + config.samples] for f, a in zip(file, at)])
            out[start : start + count] = network(front(torch.from_numpy(batch))).numpy()
    return out


def write_features(folder: Path, data: str, n: int, d: int, k: int) -> None:
    """``mixture``: 2k Gaussians, as wide as half the distance between their centres; ``noise``."""
    centres = np.random.default_rng(0).standard_normal((2 * k, d)).astype(np.float32)
    step = 1 << 16
    for number, start in enumerate(range(0, n, step)):
        random = np.random.default_rng([1, number])
        count = min(step, n - start)
        x = random.standard_normal((count, d), dtype=np.float32)
        if data == "mixture":
            x += centres[random.integers(2 * k, size=count)]
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float16).ravel()), d)
        table = pa.table({"clip_index": np.arange(start, start + count), "features": values})
        (Location.of(folder) / "features" / f"part-{number:05d}.parquet").write_table(table)


def read(folder: str) -> np.ndarray:
    """float32[n, d], the very numbers that are clustered: L2 in float16."""
    from pipeline.clustering.transform import Transform
    from pipeline.config import ClusteringConfig

    tables = (Location.of(folder) / "features").read_table(["features"])["features"]
    parts = [
        np.asarray(c.flatten().to_numpy(zero_copy_only=False)).reshape(len(c), -1)
        for c in tables.chunks
    ]
    transform = Transform.fit((parts[0].shape[1],), 1.0, None, ClusteringConfig(k=1, pca_dim=0))
    return np.concatenate([transform(part).astype(np.float32) for part in parts])


if __name__ == "__main__":
    make(*sys.argv[1:])
