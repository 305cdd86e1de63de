"""What a card says of each cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.report.crossings import counts, times_chance
from pipeline.report.seen import Seen, borderline_of
from pipeline.report.shown import ShownClips

_LABELS, _OTHERS = 5, 3  # that a card names


def cards(
    seen: Seen, shown: ShownClips, others: Mapping[str, Seen], before: Seen | None
) -> list[dict[str, Any]]:
    """A card a cluster, in order of ids, as data for the page.

    Args:
        others: the round's other clusterings, by name.
        before: the same clustering a round earlier.
    """
    of, sampled = seen.of, shown.sampled
    labels = seen.labels[sampled]
    by_label = counts(labels, shown.label[sampled], of.k, max(len(shown.labels), 1))
    by_file = _commonest(labels, shown.uri[sampled], of.k)
    against = {
        name: (
            table := counts(labels, other.labels[sampled], of.k, other.of.k),
            times_chance(table),
        )
        for name, other in others.items()
    }
    past = None
    if before is not None:
        past = counts(labels, before.labels[sampled], of.k, before.of.k)
    coherence = _coherence(seen.features, seen.labels, of.k)
    borderline = borderline_of(seen, shown)
    total = max(int(of.sizes.sum()), 1)
    found = []
    for number in range(of.k):
        labelled = by_label[number].sum()
        files, most = by_file[number]
        origin = None if past is None else _share(past[number])
        found.append(
            {
                "id": number,
                "size": int(of.sizes[number]),
                "share": of.sizes[number] / total,
                "labels": _named(by_label[number], shown.labels),
                "purity": by_label[number].max() / labelled if labelled else None,
                "files": files,
                "file_purity": most,
                "coherence": None if coherence is None else float(coherence[number]),
                "agrees": _agrees(number, against),
                "churn": None if origin is None else 1 - origin[1],
                "before": origin,
                "typical": shown.positions(_there(of.typical[number])).tolist(),
                "borderline": shown.positions(_there(borderline[number])).tolist(),
                "random": shown.positions(_there(of.at_random[number])).tolist(),
            }
        )
    return found


def _there(clips: np.ndarray) -> np.ndarray:
    return clips[clips >= 0]


def _named(row: np.ndarray, names: list[str]) -> list[tuple[str, float]]:
    order = np.argsort(-row, kind="stable")[:_LABELS]
    return [(names[n], row[n] / row.sum()) for n in order.tolist() if row[n]]


def _share(row: np.ndarray) -> tuple[int, float] | None:
    most = int(row.argmax())
    return (most, float(row[most] / row.sum())) if row[most] else None


def _agrees(
    number: int, against: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> list[tuple[str, int, float, float]]:
    """Name, cluster, share of this cluster's clips in it, times chance: the largest first."""
    found = []
    for name, (table, chance) in against.items():
        row = table[number]
        for other in np.argsort(-row, kind="stable")[:_OTHERS].tolist():
            if row[other]:
                found.append((name, other, row[other] / row.sum(), float(chance[number, other])))
    return sorted(found, key=lambda each: -each[2])[:_OTHERS]


def _commonest(labels: np.ndarray, files: np.ndarray, k: int) -> list[tuple[int, float]]:
    """Of each cluster: its files, and the share of its clips that come from the commonest."""
    there = labels >= 0
    pairs, clips = np.unique(
        labels[there].astype(np.int64) * (int(files.max(initial=0)) + 1) + files[there],
        return_counts=True,
    )
    cluster = pairs // (int(files.max(initial=0)) + 1)
    number = np.bincount(cluster, minlength=k)
    most, total = np.zeros(k, np.int64), np.bincount(cluster, weights=clips, minlength=k)
    np.maximum.at(most, cluster, clips)
    return list(zip(number.tolist(), (most / np.maximum(total, 1)).tolist()))


def _coherence(features: np.ndarray | None, labels: np.ndarray, k: int) -> np.ndarray | None:
    """float64 [k]: mean cosine between a cluster's features and their mean direction."""
    if features is None:
        return None
    there = np.isfinite(features[:, 0]) & (labels >= 0)
    rows = features[there] / np.maximum(
        np.linalg.norm(features[there], axis=1, keepdims=True), 1e-9
    )
    sums = np.zeros((k, features.shape[1]))
    np.add.at(sums, labels[there], rows)
    # The mean cosine of unit vectors to the direction of their sum is the length of their mean.
    sizes = np.bincount(labels[there], minlength=k)
    return np.linalg.norm(sums, axis=1) / np.maximum(sizes, 1)
