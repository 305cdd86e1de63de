"""What the first clusters hold of the labels, by choices that the paper leaves open.

    python benchmarks/first_clusters.py words.csv

Everything later is learned from the first clusters, and they cost no training: features of random
encoders, clustered by Lloyd's algorithm, against the labels of the training cuts. One process,
without Ray, on the pipeline's own decoding, front ends, networks, transform and refilling.
Writes ``benchmarks/first_clusters.json``: NMI with the labels by choice, modality and seed, and how
many clusters ended an iteration empty.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline import encoders
from pipeline.clips.decoding.decode import DecodedClip, decode_clips
from pipeline.clips.sampling import centred
from pipeline.clustering.inputs import unit
from pipeline.clustering.measures import normalized_mutual_information
from pipeline.clustering.splitting import split
from pipeline.clustering.transform import Moments, Transform, power_of_two
from pipeline.config import ClipsConfig, ClusteringConfig
from pipeline.encoders.frontend import FramesToInput, LogMel
from pipeline.methods import MODALITIES
from pipeline.reproduction.worlds import LISTS, TRAIN, words
from pipeline.settings import load
from pipeline.storage import Location
from pipeline.telemetry.machine import about

RESULT = Path(__file__).with_suffix(".json")
PLAIN = ("clustering.pca_dim=0", "clustering.whiten=false", "clustering.l2=false")
CHOICES: dict[str, tuple[str, ...]] = {
    "as in configs/words.yaml": (),
    "no whitening": ("clustering.whiten=false",),
    "no L2": ("clustering.l2=false",),
    "neither PCA nor whitening": PLAIN[:2],
    "neither PCA, whitening nor L2": PLAIN,
    "audio window from the first frame on": ("clips.audio.align=start",),
    "spectrograms not normalised": ("clips.audio.normalize=none",),
    "audio: stock ResNet-18": ("encoders.audio=resnet18",),
    "audio: VMZ's ResNet-18": ("encoders.audio=resnet18_vmz",),
    "k = 256": ("clustering.k=256",),
    "k = 1024": ("clustering.k=1024",),
}
JOINT = "joint"


def decoded(cuts: pa.Table, config: ClipsConfig) -> dict[str, torch.Tensor]:
    """Every cut's middle as the encoders take it: [N, 3, T, S, S] and [N, 1, mels, frames]."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, uri in enumerate(cuts["uri"].to_pylist()):
        rows[uri].append(row)
    start, end = (cuts[name].to_pylist() for name in ("start_s", "end_s"))

    clips: dict[int, DecodedClip] = {}
    for uri, numbers in rows.items():
        asked = [centred(start[n], end[n], config, video=True, audio=True) for n in numbers]
        for number, clip in zip(numbers, decode_clips(Location.of(uri), asked, config)):
            assert isinstance(clip, DecodedClip), f"{uri}: {clip}"
            clips[number] = clip
    ordered = [clips[row] for row in range(len(cuts))]
    fronts = {"video": FramesToInput(), "audio": LogMel(config.audio)}
    return {
        modality: torch.cat(
            [front(torch.from_numpy(getattr(clip, modality))[None]) for clip in ordered]
        )
        for modality, front in fronts.items()
    }


@torch.no_grad()
def features(modality: str, network: str, data: torch.Tensor, seed: int) -> np.ndarray:
    """float32 [N, d] of a random encoder."""
    torch.manual_seed(seed)
    encoder = encoders.new_encoder(modality, network).eval()
    return torch.cat([encoder(batch) for batch in data.split(64)]).numpy()


def vectors(found: np.ndarray, config: ClusteringConfig) -> np.ndarray:
    """float32 [N, d'], as they are clustered."""
    scale, moments = power_of_two(float(np.abs(found).max())), None
    if config.pca_dim:
        moments = Moments.of(found, scale, len(found))
    return Transform.fit((found.shape[1],), scale, moments, config)(found).astype(np.float32)


def clusters(x: np.ndarray, config: ClusteringConfig, seed: int) -> tuple[np.ndarray, int]:
    """int64 [N], Lloyd's algorithm from k random rows; how many clusters iterations left empty."""
    random = np.random.default_rng(seed)
    centroids = x[random.choice(len(x), config.k, replace=False)]
    emptied = 0
    for _ in range(config.iterations):
        labels = nearest(x, centroids)
        counts = np.bincount(labels, minlength=len(centroids))
        emptied += int((counts == 0).sum())
        sums = np.zeros(centroids.shape, np.float64)
        np.add.at(sums, labels, x)
        centroids = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        centroids, _ = split(centroids, counts, random)
    return nearest(x, centroids), emptied


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return (x @ centroids.T - 0.5 * np.square(centroids).sum(axis=1)).argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", help="the cuts table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    world = words(options.words)
    cuts = LISTS[TRAIN](world.cuts(Location.of(".")))
    labels = np.unique(cuts["label"].to_pylist(), return_inverse=True)[1]
    rows: list[dict[str, Any]] = []
    decode, encode = cache(partial(decoded, cuts)), cache(features)

    def measure(
        choice: str, modality: str, config: ClusteringConfig, found: Callable[[int], np.ndarray]
    ) -> None:
        scores, emptied = [], []
        for seed in options.seeds:
            assigned, empty = clusters(vectors(found(seed), config), config, seed)
            scores.append(normalized_mutual_information(assigned, labels))
            emptied.append(empty)
        rows.append({"choice": choice, "modality": modality, "nmi": scores, "emptied": emptied})
        shown = " ".join(f"{score:.3f}" for score in scores)
        print(f"{choice} · {modality} · {shown} · emptied {emptied}", flush=True)

    for name, settings in CHOICES.items():
        config = load([*world.settings, *settings])
        clips = decode(config.clips)
        made = {m: partial(encode, m, config.encoders.of(m).name, clips[m]) for m in MODALITIES}
        for modality in MODALITIES:
            if modality == "video" and any("audio" in setting for setting in settings):
                continue
            measure(name, modality, config.clustering, made[modality])
        if not settings:
            for choice, change in {
                "each of length 1 before": unit,
                "joined as they are": _as_is,
            }.items():
                joined = partial(_joined, made, change)
                measure(choice, JOINT, config.clustering, joined)
    head = about("torch", "av", "numpy")
    result = {"about": head, "seeds": options.seeds, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def _as_is(found: np.ndarray) -> np.ndarray:
    return found


def _joined(
    made: Mapping[str, Callable[[int], np.ndarray]],
    change: Callable[[np.ndarray], np.ndarray],
    seed: int,
) -> np.ndarray:
    return np.concatenate([change(found(seed)) for found in made.values()], axis=1)


if __name__ == "__main__":
    main()
