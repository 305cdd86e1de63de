"""Linear probes on held-out cuts, signals of their quality that need no labels, and what clusters
hold: their most frequent labels, and which labels they confuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.clustering import ClusteringTask, cluster, measures, read_labels
from pipeline.clustering.agreement import agreement
from pipeline.config import Config
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.shards import read_features
from pipeline.evaluation.classifiers import ClipFeatures
from pipeline.evaluation.datasets.labelled import NEITHER, TEST
from pipeline.evaluation.figures import evaluate_features
from pipeline.evaluation.splits import LabelledExamples
from pipeline.manifest import NAME
from pipeline.reproduction.worlds import TRAIN
from pipeline.run import Round
from pipeline.storage import Location

_CLUSTERS, _PAIRS = 8, 12  # examples
_LABELS = 3  # of each cluster

Lists = Mapping[str, tuple[ClipTable, PublishedClips]]  # of labelled cuts: train and held out
Features = Mapping[str, tuple[np.ndarray, np.ndarray]]  # list → features [n, d], present bool [n]


def features_of(
    lists: Lists,
    weights: Location,
    folders: Mapping[str, Mapping[str, Location]],
    rejects: Location,
    config: Config,
    title: str,
) -> Mapping[str, Features]:
    """Features of every list, by modality, made unless `folders` (by list, modality) have them."""
    found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    config = config.of_all_clips()
    for name, (clips, published) in lists.items():
        todo = {m: f for m, f in folders[name].items() if not (f / "_DONE").exists()}
        if todo:
            embed(
                EmbeddingTask(published, weights, todo, rejects, config, f"{title} · embed {name}")
            )
        for modality, folder in folders[name].items():
            found.setdefault(modality, {})[name] = read_features(folder, len(clips))
    return found


def probed(lists: Lists, features: Features, seed: int) -> dict[str, Any]:
    """The protocol ``linear``, trained on the training cuts, on each split of the held-out ones.

    Returns:
        Split → accuracy with its 95% interval (low, high), chance, strength (C) and the numbers of
        clips.
    """

    def joined(column: str) -> pa.DictionaryArray:
        parts = [chunk for clips, _ in lists.values() for chunk in clips.column(column).chunks]
        return pa.chunked_array(parts).combine_chunks().dictionary_encode()

    labels, files = joined("label"), joined("uri")
    given = np.array(joined("split").to_pylist(), dtype=object)
    held_out = sorted(set(given) - {TRAIN})
    data = LabelledExamples(
        labels=labels.indices.to_numpy().astype(np.int64),
        classes=labels.dictionary.to_pylist(),
        sources=files.indices.to_numpy().astype(np.int64),
        source_names=files.dictionary.to_pylist(),
        sides={
            split: np.where(given == TRAIN, TRAIN, np.where(given == split, TEST, NEITHER))
            for split in held_out
        },
    )
    values, present = (np.concatenate([features[name][i] for name in lists]) for i in (0, 1))
    clips = ClipFeatures(values[present].astype(np.float32), np.flatnonzero(present))
    splits = {split: data.split(split) for split in held_out}
    by_split = evaluate_features("linear", clips, data, splits, seed)["by_split"]
    return {
        split: {
            "accuracy": found["figures"]["accuracy"],
            "low": found["interval"][0],
            "high": found["interval"][1],
            "chance": found["chance"],
            "strength": found["chosen"]["C"],
            "train_clips": found["train"],
            "test_clips": found["test"],
        }
        for split, found in by_split.items()
    }


def clusters_of(this: Round, modality: str, clips: ClipTable, config: Config) -> np.ndarray:
    """int32 [N]: the modality's own clusters, also where the method clustered another way."""
    out = this.clusters(modality)
    if not (out / NAME).exists():
        features, settings = (this.features(modality),), config.clustering
        task = ClusteringTask(features, len(clips), clips.location, settings, config.seed, out)
        cluster(task, resources=config.resources).close()
    return read_labels(out, len(clips))


def signals(this: Round, assigned: Mapping[str, np.ndarray], clips: ClipTable) -> dict[str, float]:
    """Signals for users without labels; the study compares them with the probes.

    Args:
        assigned: modality → its clusters of `clips`, int32 [N].
    """
    found = {
        f"effective_clusters_{modality}": measures.effective_clusters(np.bincount(ids[ids >= 0]))
        for modality, ids in assigned.items()
    }
    files = clips.files() if assigned else None
    if files is not None:
        found |= {
            f"ami_to_files_{modality}": measures.adjusted_mutual_information(
                files, ids[: len(files)]
            )
            for modality, ids in assigned.items()
        }
    if len(assigned) == 2:
        first, second = assigned.values()
        found["agreement"] = agreement(first, second)
        if files is not None:
            found["agreement_beyond_files"] = agreement(first, second, files)
    for update in this.metrics.read_json().get("updates", []):
        last = update["epochs"][-1]
        found |= {name: value for name, value in last.items() if name.startswith("held_out_acc")}
    return found


def contents(
    assigned: np.ndarray, labels: np.ndarray, names: list[str], *, examples: bool = True
) -> dict[str, Any]:
    """
    Args:
        assigned: int32 [N], clusters, -1 for none; labels: int64 [N], -1 for none; names: theirs.
        examples: whether to add ``clusters`` and ``confused``.

    Returns:
        ``purity`` and ``nmi``; ``clusters``: the purest ones with their most frequent labels and
        the shares of these; ``confused``: pairs of labels by the chance that a clip of one and a
        clip of the other lie in the same cluster, relative to two clips of the same label.
    """
    known = (assigned >= 0) & (labels >= 0)
    found: dict[str, Any] = {
        "purity": measures.purity(assigned[known], labels[known]),
        "nmi": measures.normalized_mutual_information(labels[known], assigned[known]),
    }
    if not examples:
        return found
    table = np.zeros((assigned.max() + 1, len(names)))
    np.add.at(table, (assigned[known], labels[known]), 1)
    return found | {"clusters": _purest(table, names), "confused": _confused(table, names)}


def _purest(table: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """The purest clusters of `table`, numbers of clips [clusters, labels]."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    purest = np.argsort(-share.max(axis=1), kind="stable")[:_CLUSTERS]
    leading = np.argsort(-share, axis=1, kind="stable")[:, :_LABELS]
    shares = [{names[i]: round(share[c, i], 3) for i in leading[c]} for c in purest]
    return [{"clips": int(table[c].sum()), "labels": found} for c, found in zip(purest, shares)]


def _confused(table: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    spread = table / np.maximum(table.sum(axis=0), 1)  # of each label, over the clusters
    together = spread.T @ spread
    own = np.sqrt(np.diag(together))
    likeness = together / np.maximum(np.outer(own, own), 1e-12)
    pairs = np.argwhere(np.triu(np.ones_like(likeness), 1))
    closest = pairs[np.argsort(-likeness[tuple(pairs.T)], kind="stable")][:_PAIRS]
    return [
        {"labels": [names[a], names[b]], "likeness": round(float(likeness[a, b]), 3)}
        for a, b in closest
    ]
