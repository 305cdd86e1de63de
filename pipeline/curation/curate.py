"""A selection of a run's clips: the filters one after another, then the two tables.

    named clusters and clips → no features → picture and sound disagree → near-duplicates → draw

A clip is left out for the first reason that holds. Disagreement comes before duplicates, so that no
clip stands for others and then goes itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.curation.balanced_draw import draw
from pipeline.curation.clustered_clips import ClusteredClips
from pipeline.curation.duplicates import NearSearch
from pipeline.curation.exclusion import in_clusters, read_clip_ids, with_ids
from pipeline.curation.filters import Filters
from pipeline.curation.hierarchy import default_levels, parents
from pipeline.curation.pair_likelihood import pair_likelihood
from pipeline.curation.selection_tables import beside, finished, write_tables
from pipeline.curation.verdicts import LeftOut, Verdicts
from pipeline.errors import UserError
from pipeline.lease import hold
from pipeline.manifest import digest_of
from pipeline.methods import MODALITIES
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.console import say

FORMAT = 1


@dataclass(frozen=True)
class CurationTask:
    """One selection."""

    run: Run
    round: int | None  # None: the last finished one
    out: Location
    filters: Filters
    seed: int

    @property
    def work(self) -> Location:
        """Scratch, gone when the selection is finished."""
        return Location(f"{self.out.uri}.work", self.out.query)


def curate(task: CurationTask) -> dict[str, int]:
    """Write the selection; what an earlier attempt finished is not done again.

    Returns:
        Clips by reason, and ``kept``; together the clips of the run.

    Raises:
        UserError: the run's round cannot be curated so, OUT holds another selection, or another
            process works on it.
    """
    beside(task.out)
    clustered = ClusteredClips.of(task.run, task.round)
    task.filters.check(clustered)
    with hold(task.work / "_LEASE", f"the selection {task.out}"):
        notes = _notes(task, clustered)
        there = finished(task.out)
        if there is None:
            there = _curated(task, clustered, notes)
        elif there["made_of"] != notes:
            raise UserError(
                f"{task.out} holds another selection, of other clips, clusters or options: name "
                "another OUT, or delete it"
            )
        else:
            say(f"{task.out} is there already")
    task.work.delete()
    counts: dict[str, int] = there["counts"]
    return counts


def _curated(
    task: CurationTask, clustered: ClusteredClips, notes: dict[str, Any]
) -> dict[str, Any]:
    key = digest_of(json.dumps(notes, sort_keys=True).encode())[:16]
    for info in task.work.children():
        if info.base_name not in ("_LEASE", key):
            (task.work / info.base_name).delete()  # of other options
    scratch, verdicts = task.work / key, Verdicts(len(clustered.clips))
    steps: tuple[Callable[..., None], ...] = (_exclude, _demand_features, _agree, _near, _draw)
    for step in steps:
        step(task, clustered, verdicts, scratch)
    others = int((~clustered.in_training).sum())
    if others:
        say(f"{others:,} clips of splits that the run does not learn from are kept as they are")
    found = {"counts": verdicts.counts(), "made_of": notes}
    names = [f"{name}:{number}" for name, number in task.filters.clusters]
    write_tables(task.out, clustered.clips, verdicts, names, found)
    return found


def _notes(task: CurationTask, clustered: ClusteredClips) -> dict[str, Any]:
    """What decides the selection, as JSON has it."""
    filters: dict[str, Any] = asdict(task.filters)
    if task.filters.ids:
        filters["ids"] = digest_of(Location.of(task.filters.ids).read_bytes())
    made = {"format": FORMAT, "clips": clustered.identity, "filters": filters, "seed": task.seed}
    return dict(json.loads(json.dumps(made)))


def _exclude(
    task: CurationTask, clustered: ClusteredClips, verdicts: Verdicts, scratch: Location
) -> None:
    filters = task.filters
    if filters.clusters:
        verdicts.named = in_clusters(clustered, filters.clusters)
        verdicts.leave_out(verdicts.named >= 0, LeftOut.EXCLUDED)
    if filters.ids:
        ids = read_clip_ids(Location.of(filters.ids))
        named = with_ids(clustered.clips, ids)
        verdicts.leave_out(named, LeftOut.EXCLUDED)
        if lacking := len(ids) - int(named.sum()):
            say(f"warning: {lacking:,} of {len(ids):,} ids in {filters.ids} are of no clip here")


def _demand_features(
    task: CurationTask, clustered: ClusteredClips, verdicts: Verdicts, scratch: Location
) -> None:
    """Clips that nothing is known of."""
    none = clustered.in_training.copy()
    for name in clustered.clusterings:
        none &= clustered.labels(name) < 0
    verdicts.leave_out(none, LeftOut.NO_FEATURES)


def _agree(
    task: CurationTask, clustered: ClusteredClips, verdicts: Verdicts, scratch: Location
) -> None:
    filters = task.filters
    if not filters.agrees:
        return
    kept = verdicts.kept
    video, audio = (np.where(kept, clustered.labels(m), np.int32(-1)) for m in MODALITIES)
    scores = pair_likelihood(video, audio)
    verdicts.agreement = scores
    verdicts.leave_out((video >= 0) != (audio >= 0), LeftOut.ONE_MODALITY)
    known = scores[~np.isnan(scores)]
    least, by = filters.least_agreement, ""
    if filters.disagreeing_share is not None and len(known):
        # Clips of one pair of clusters agree alike: they stay or go together.
        least = float(np.quantile(known, filters.disagreeing_share, method="lower"))
        by = f", the least of all but {filters.disagreeing_share:.1%} of the clips"
    out = verdicts.leave_out(scores < (least or 0.0), LeftOut.DISAGREES)
    say(
        f"agreement of picture and sound · at least {least or 0.0:.3f} nats{by} (0 is chance, the "
        f"median {np.median(known) if len(known) else 0:.3f}) · {out:,} of {len(known):,} clips "
        "have less"
    )


def _near(
    task: CurationTask, clustered: ClusteredClips, verdicts: Verdicts, scratch: Location
) -> None:
    filters = task.filters
    if filters.near is None:
        return
    names = filters.spaces(clustered)
    kept = verdicts.kept & clustered.in_training
    found = NearSearch(clustered, names, filters.near, scratch / "near").run(kept)
    verdicts.leave_out_duplicates(found.clips, found.kept_for, found.cosine)
    say(
        f"near-duplicates · cosine of at least {filters.near:g} in {' and '.join(names)} · "
        f"{found.groups:,} groups, the largest of {found.largest:,} clips · {len(found.clips):,} "
        f"of {int(kept.sum()):,} clips left out"
    )


def _draw(
    task: CurationTask, clustered: ClusteredClips, verdicts: Verdicts, scratch: Location
) -> None:
    filters = task.filters
    if not filters.draws:
        return
    left = verdicts.kept & clustered.in_training
    there = int(left.sum())
    wanted = filters.clips if filters.clips is not None else round((filters.share or 0) * there)
    if wanted >= there:
        say(f"warning: {wanted:,} clips are to be drawn, and {there:,} are left: all are kept")
        return
    name = filters.tree(clustered)
    labels, centroids = clustered.labels(name), clustered.centroids(name)
    levels = default_levels(len(centroids)) if filters.levels is None else filters.levels
    above = parents(centroids, levels, task.run.config, task.seed, scratch / "hierarchy")
    drawn = draw(left, labels, above, wanted, task.seed)
    verdicts.leave_out(left & ~drawn, LeftOut.NOT_DRAWN)
    tree = " ← ".join(map(str, (*reversed(levels), len(centroids))))
    say(f"balanced draw · {wanted:,} of {there:,} clips by {name} clusters, {tree}")
