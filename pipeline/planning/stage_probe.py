"""The stages themselves, on so few clips that what they take is their start, mostly.

They run as in a run: Ray Data's datasets, Ray Train's workers, actors of k-means, all files
written to the run's own storage, in a scratch folder that goes afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.fill import fill
from pipeline.clips.store import ClipStore
from pipeline.clips.table import PublishedClips
from pipeline.clustering import ClusteringTask, KMeansProgress, cluster
from pipeline.config import ClusteringConfig, Config
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.warming import write_random_encoders
from pipeline.learning.group import TrainingGroup
from pipeline.learning.learn import learn
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.methods import Method
from pipeline.storage import Location

_ROWS = 65_536  # of the vectors that are clustered
_ITERATIONS, _SHARDS = 3, 2
WEIGHTS = "encoders.safetensors"  # in the scratch folder


@dataclass(frozen=True)
class KMeansTime:
    """Seconds of the steps of a clustering of `rows` vectors."""

    rows: int
    shards: int
    start_s: float  # all but the steps
    load_s: float  # what is read, PCA
    seed_s: float
    iteration_s: float
    label_s: float
    label_bytes: float  # of the labels' files, for a clip


def encoders_seconds(clips: PublishedClips, scratch: Location, config: Config) -> float:
    """Seconds of round 0, its BatchNorm warmed with the fewest clips; its weights stay."""
    began = time.monotonic()
    write_random_encoders(clips, config, scratch / WEIGHTS)
    return time.monotonic() - began


def embed_seconds(
    clips: PublishedClips,
    modalities: Sequence[str],
    weights: Location,
    out: Location,
    config: Config,
) -> float:
    """Seconds of an embedding pass over `clips`."""
    began = time.monotonic()
    task = EmbeddingTask(
        clips=clips,
        weights=weights,
        out={m: out / m for m in modalities},
        rejects=out / "rejects",
        config=config,
        title="plan · embed",
    )
    embed(task)
    return time.monotonic() - began


def learn_seconds(
    clips: PublishedClips,
    method: Method,
    weights: Location,
    out: Location,
    config: Config,
    group: TrainingGroup,
) -> tuple[float, dict[str, Any]]:
    """Seconds of the method's first update with labels drawn at random, and its metrics."""
    update, rng = method.updates[0], np.random.default_rng(config.seed)
    k = config.clustering.k
    labels = {name: rng.integers(k, size=len(clips), dtype=np.int32) for name in update.clusterings}
    began = time.monotonic()
    found = learn(
        LearningTask(
            clips=clips,
            heads=update.heads,
            labels={name: PublishedLabels.of(label, k) for name, label in labels.items()},
            weights=weights,
            out=out,
            rejects=out / "rejects",
            config=config,
            key=(config.seed, 1, 0),
            title="plan · learn",
        ),
        group,
    )
    return time.monotonic() - began, found


def cluster_time(rows: int, dim: int, scratch: Location, config: Config) -> KMeansTime:
    """Of vectors drawn at random: k-means takes as long for them as for others of their number."""
    rows, rng = min(rows, _ROWS), np.random.default_rng(config.seed)
    folder, out = scratch / "features", scratch / "clusters"
    values = rng.standard_normal((rows, dim), np.float32).astype(np.float16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), dim)
    index = pa.array(np.arange(rows, dtype=np.int64))
    (folder / "part-0.parquet").write_table(pa.table({"clip_index": index, "features": lists}))
    few = {"k": min(config.clustering.k, rows), "iterations": _ITERATIONS, "restarts": 1}
    few["shards"] = min(config.clustering.shards, _SHARDS)  # no more nodes than they need
    settings = config.clustering.model_copy(update=few)
    task = ClusteringTask((folder,), rows, None, settings, config.seed, out)
    steps: dict[str, list[float]] = {}

    def note(progress: KMeansProgress) -> None:
        steps.setdefault(progress.stage, []).append(progress.seconds)

    began = time.monotonic()
    cluster(task, resources=config.resources, on_progress=note).close()
    seconds = time.monotonic() - began
    written = sum(place.info().size or 0 for place in (out / "labels").files())
    return KMeansTime(
        rows=rows,
        shards=shards_of(rows, settings),
        start_s=seconds - sum(map(sum, steps.values())),
        load_s=sum(steps.get("loading", [])),
        seed_s=sum(steps.get("seeding", [])),
        iteration_s=float(np.median(steps["iterating"])),
        label_s=sum(steps.get("labelling", [])),
        label_bytes=written / rows,
    )


def shards_of(rows: int, settings: ClusteringConfig) -> int:
    """Into how many shards so many clips are divided."""
    return min(settings.shards, -(-rows // settings.block_size))


def filled(clips: PublishedClips, place: Location, config: Config) -> tuple[ClipStore, float]:
    """A clip store of these clips, and the seconds that it took."""
    began = time.monotonic()
    store = fill(clips, place, config)
    assert store is not None
    return store, time.monotonic() - began
