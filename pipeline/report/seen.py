"""What is known of the shown clips in each clustering: labels, features, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.report.clustered import Clustered, labels_of, margins_of
from pipeline.report.shown import ShownClips
from pipeline.report.shown_features import features_of
from pipeline.run import Run

BORDERLINE = 6  # clips of each cluster


@dataclass(frozen=True)
class Seen:
    """A clustering, and what is known of the shown clips in it.

    Attributes:
        labels: int32 [n], -1: none.
        features: float32 [n, d], NaN where a clip has none; None where the round's are deleted.
        margins: float32 [n], see `Index.margins`; NaN or None likewise.
    """

    of: Clustered
    labels: np.ndarray
    features: np.ndarray | None = None
    margins: np.ndarray | None = None


def seen_in(run: Run, found: Sequence[Clustered], shown: ShownClips) -> list[Seen]:
    """Each clustering with what is known of the shown clips; features where they are kept."""
    labels = labels_of(found, shown.index, run)
    seen = [Seen(of, known) for of, known in zip(found, labels)]
    newest = {of.name: number for number, of in enumerate(found)}
    for number in newest.values():
        of = found[number]
        if not of.features:
            continue
        title = f"report · read {' and '.join(of.modalities)} features"
        parts = [
            features_of(folder, shown.index, of.num_clips, run.config.resources, title)
            for folder in of.features
        ]
        features = np.concatenate(parts, axis=1)
        margins = np.full(len(shown), np.nan, np.float32)
        there = np.isfinite(features).all(axis=1)
        if there.any():
            margins[there] = margins_of(of, features[there], run)
        seen[number] = replace(seen[number], features=features, margins=margins)
    return seen


def borderline_of(seen: Seen, shown: ShownClips) -> np.ndarray:
    """int64 [k, n]: sampled clips for which another centroid is nearly as near, the nearest first.

    As clip indices, -1 where there are fewer, or no features.
    """
    found, taken = np.full((seen.of.k, BORDERLINE), -1, np.int64), np.zeros(seen.of.k, np.int64)
    if seen.margins is None:
        return found
    known = np.flatnonzero(shown.sampled & np.isfinite(seen.margins) & (seen.labels >= 0))
    order = known[np.argsort(seen.margins[known], kind="stable")]
    for clip, cluster in zip(shown.index[order].tolist(), seen.labels[order].tolist()):
        if taken[cluster] < BORDERLINE:
            found[cluster, taken[cluster]] = clip
            taken[cluster] += 1
    return found


def features_in(last: Mapping[str, Seen], modality: str) -> np.ndarray | None:
    """The newest features of a modality; from a joint clustering its part of them."""
    for each in last.values():
        if each.features is None or modality not in each.of.modalities:
            continue
        width = each.features.shape[1] // len(each.of.modalities)
        at = each.of.modalities.index(modality) * width
        return each.features[:, at : at + width]
    return None
