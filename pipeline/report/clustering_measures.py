"""Measures of every clustering, of the sampled clips: what curves and judgements speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.clustering import measures
from pipeline.clustering.agreement import agreement
from pipeline.report.seen import Seen
from pipeline.report.shown import ShownClips


@dataclass(frozen=True)
class ClusteringMeasures:
    """One clustering; None where there is nothing to compare with.

    Attributes:
        k, effective: clusters, and how many equal ones have the same entropy.
        imbalance: 1 for equal sizes, k for one cluster of all.
        nmi_to_last, churn: against the same clustering a round earlier.
        ami_to_files: how far it follows the file, where files hold several clips.
        nmi_to_labels, purity: against the labels, where there are some.
        agreement, beyond_files: with the other modality's clusters of the round; of it what
            remains where what a file's clips share does not count.
    """

    name: str
    number: int
    k: int
    effective: float
    imbalance: float
    nmi_to_last: float | None = None
    churn: float | None = None
    ami_to_files: float | None = None
    nmi_to_labels: float | None = None
    purity: float | None = None
    agreement: float | None = None
    beyond_files: float | None = None


def measured(seen: Sequence[Seen], shown: ShownClips) -> list[ClusteringMeasures]:
    """Of each clustering, in the order given."""
    by_key = {(each.of.name, each.of.number): each for each in seen}
    files = shown.uri[shown.sampled] if shown.several_a_file else None
    classes = shown.label[shown.sampled]
    return [_measured(each, by_key, shown.sampled, files, classes) for each in seen]


def _measured(
    each: Seen,
    by_key: Mapping[tuple[str, int], Seen],
    sampled: np.ndarray,
    files: np.ndarray | None,
    classes: np.ndarray,
) -> ClusteringMeasures:
    name, number = each.of.name, each.of.number

    def labels(name: str, number: int) -> np.ndarray | None:
        found = by_key.get((name, number))
        return None if found is None else found.labels[sampled]

    own = each.labels[sampled]
    others = [other for other, of_round in by_key if of_round == number and other != name]
    other = others[0] if len(others) == 1 else None
    before, theirs = labels(name, number - 1), other and labels(other, number)
    values: dict[str, float] = {}
    if before is not None:
        values["nmi_to_last"] = measures.normalized_mutual_information(before, own)
        values["churn"] = measures.churn(before, own)
    if isinstance(theirs, np.ndarray):
        values["agreement"] = agreement(theirs, own)
        if files is not None:
            values["beyond_files"] = agreement(theirs, own, files)
    if files is not None:
        values["ami_to_files"] = measures.adjusted_mutual_information(files, own)
    if (classes >= 0).any():
        values["nmi_to_labels"] = measures.normalized_mutual_information(classes, own)
        values["purity"] = measures.purity(own, classes)
    sizes = each.of.sizes
    return ClusteringMeasures(
        name,
        number,
        each.of.k,
        measures.effective_clusters(sizes),
        measures.imbalance_factor(sizes),
        **values,
    )
