"""What the first clusters hold of the labels, by choices that the paper leaves open.

    python benchmarks/first_clusters.py words.csv

Everything later is learned from the first clusters, and they cost no training: features of random
encoders, clustered by Lloyd's algorithm, against the labels of the training cuts. One process,
without Ray, on the pipeline's own decoding, front ends, networks and transform; faiss's k-means.
Writes ``benchmarks/first_clusters.json``: NMI with the labels by choice, modality and seed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import torch

from pipeline import encoders
from pipeline.clips.decode import DecodedClip, decode_clips
from pipeline.clips.sampling import centred
from pipeline.clips.spectrogram import LogMel
from pipeline.clips.transforms import FramesToInput
from pipeline.clustering.measures import normalized_mutual_information
from pipeline.clustering.transform import Moments, Transform, power_of_two
from pipeline.config import ClipsConfig, ClusteringConfig, load
from pipeline.machine import about
from pipeline.methods import MODALITIES
from pipeline.reproduction.worlds import LISTS, TRAIN, words
from pipeline.storage import Location

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
}


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
    fronts = {"video": FramesToInput(config.video), "audio": LogMel(config.audio)}
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


def clusters(found: np.ndarray, config: ClusteringConfig, seed: int) -> np.ndarray:
    """int64 [N]: Lloyd's algorithm from k random rows of the transformed features."""
    scale, moments = power_of_two(float(np.abs(found).max())), None
    if config.pca_dim:
        moments = Moments.of(found, scale, len(found))
    x = Transform.fit((found.shape[1],), scale, moments, config)(found)
    x = np.ascontiguousarray(x, np.float32)
    kmeans = faiss.Kmeans(
        x.shape[1],
        config.k,
        niter=config.iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    kmeans.train(x)
    return kmeans.index.search(x, 1)[1][:, 0].astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", help="the cuts table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    world = words(options.words)
    cuts = LISTS[TRAIN](world.cuts(Location.of(".")))
    labels = np.unique(cuts["label"].to_pylist(), return_inverse=True)[1]
    rows = []
    decode, encode = cache(partial(decoded, cuts)), cache(features)
    for name, settings in CHOICES.items():
        config = load([*world.settings, *settings])
        clips = decode(config.clips)
        for modality in MODALITIES:
            if modality == "video" and any("audio" in setting for setting in settings):
                continue
            network, data = getattr(config.encoders, modality), clips[modality]
            scores = [
                normalized_mutual_information(
                    clusters(encode(modality, network, data, seed), config.clustering, seed), labels
                )
                for seed in options.seeds
            ]
            rows.append({"choice": name, "modality": modality, "nmi": scores})
            print(f"{name} · {modality} · " + " ".join(f"{score:.3f}" for score in scores))
    head = about("torch", "av") | {"faiss": faiss.__version__}
    result = {"about": head, "seeds": options.seeds, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
