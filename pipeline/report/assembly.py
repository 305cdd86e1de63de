"""The report, top to bottom: what is read of a run, and what lies in the folder.

    OUT/  index.html  assets/          the page, which only reads what follows
          data/*.js                    numbers and names (page_data.py)
          media/<clip id>.jpg .png .mp4
          clips.parquet  rejects.csv   the same for other tools
          report.json                  whose report this is

Everything is of a bounded number of clips, however many the run has: a sample for shares and maps,
and those that clusters name. Labels and features are read where they lie, in tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.methods import MODALITIES
from pipeline.report.cards import Seen, cards
from pipeline.report.clustered import Clustered, clusterings_of, labels_of, margins_of
from pipeline.report.crossings import across, flow
from pipeline.report.exported import CLIPS, REJECTED, write_clips, write_rejects
from pipeline.report.measured import measured
from pipeline.report.neighbours import neighbours
from pipeline.report.overview import overview
from pipeline.report.page_data import put
from pipeline.report.previews import SUFFIXES, Kind, Previews
from pipeline.report.projection import projected
from pipeline.report.shown import ShownClips, sample
from pipeline.report.shown_features import features_of
from pipeline.report.verdicts import verdicts
from pipeline.run import Run
from pipeline.status import status_of
from pipeline.storage import Location
from pipeline.telemetry.console import say

SUMMARY = "report.json"


@dataclass(frozen=True)
class ReportTask:
    """One report."""

    run: Run
    out: Location
    most_shown: int = 200_000  # clips on maps and in shares
    playable: int = 1000  # clips that can be seen and heard, about 22 KB each
    with_media: bool = True
    projection: str = "pca"
    live: bool = False  # the page looks for a newer report now and then
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What was made."""

    page: Location
    clips: int  # shown
    playable: int
    losses: Mapping[str, int]  # reason → clips whose media could not be had


def make_report(task: ReportTask) -> Report:
    """Make the folder, or bring it up to date.

    Raises:
        UserError: the run has no clips, or the folder is something else.
    """
    run, out = task.run, task.out
    _claim(out, run)
    table = ClipTable.open(run.clips)
    status = status_of(run.location)
    found = clusterings_of(run, len(table), task.seed)
    sampled = sample(len(table), task.most_shown, task.seed)
    shown = ShownClips.of(
        table, sampled, [part for c in found for part in (c.typical, c.at_random)]
    )
    seen = _seen(task, found, shown, len(table))
    last = {each.of.name: each for each in seen}
    features = {m: f for m in MODALITIES if (f := _of_modality(m, last)) is not None}

    media, ids, kinds, losses = _media(task, table, shown, seen)
    playable = media >= 0
    told = measured(seen, shown)
    data = out / "data"
    for each in seen:
        others = {o.of.name: o for o in seen if o.of.number == each.of.number and o is not each}
        past = [o for o in seen if o.of.name == each.of.name and o.of.number == each.of.number - 1]
        put(data, f"labels/{each.of.key}", each.labels)
        put(data, f"clusters/{each.of.key}", cards(each, shown, others, past[0] if past else None))
        for before in past:
            labels = (before.labels[shown.sampled], each.labels[shown.sampled])
            numbers = (before.of.number, each.of.number)
            put(data, f"flow/{each.of.key}", flow(*labels, (before.of.k, each.of.k), numbers))
    crossed = _across(task, seen, shown, playable)
    places = _map(task, features)
    near = neighbours(features, playable, shown.uri) if playable.any() else None
    if near is not None:
        put(data, "nearest", near)
    put(data, "clips", shown.columns(media, ids, kinds))
    put(data, "rejects", rejected := write_rejects(out, run))
    thumbnails = [
        f"media/{ids[n]}.jpg" if n >= 0 and kinds[n] & Kind.THUMBNAIL else None for n in media
    ]
    write_clips(out, shown, last, places, thumbnails)
    report = overview(run, status, told, len(table), len(shown)) | {
        "live": task.live,
        "playable": len(ids),
        "labelled": bool(shown.labels),
        "with_media": task.with_media,
        "media_suffix": SUFFIXES[Kind.PLAYABLE],
        "verdicts": [v._asdict() for v in verdicts(told, run.config.method)],
        "rejected": rejected["total"],
        "flows": [
            {"name": o.of.name, "round": o.of.number}
            for o in seen
            if any(b.of.name == o.of.name and b.of.number == o.of.number - 1 for b in seen)
        ],
        "across": crossed,
        "map": bool(places),
        "nearest": near is not None,
        "downloads": [
            [
                CLIPS,
                "every shown clip with its clusters and places, for embedding-atlas, Spotlight",
            ],
            [REJECTED, "every reject"],
        ],
    }
    put(data, "report", report)
    _copy_page(out)
    return Report(out / "index.html", len(shown), len(ids), losses)


def _claim(out: Location, run: Run) -> None:
    """Raises UserError if the folder holds another run's report, or anything else."""
    mine = {"run": str(run.location)}
    if (out / SUMMARY).exists():
        theirs = (out / SUMMARY).read_json()
        if theirs != mine:
            raise UserError(f"{out} is the report of {theirs.get('run')}; name another folder")
        return
    if out.children():
        raise UserError(f"{out} is not empty and not a report; name another folder")
    (out / SUMMARY).write_json(mine)


def _seen(
    task: ReportTask, found: list[Clustered], shown: ShownClips, num_clips: int
) -> list[Seen]:
    """Each clustering with what is known of the shown clips; features where they are kept."""
    labels = labels_of(found, shown.index, task.run)
    seen = [Seen(of, known) for of, known in zip(found, labels)]
    newest = {of.name: number for number, of in enumerate(found)}
    for number in newest.values():
        of = found[number]
        if not of.features:
            continue
        title = f"report · read {' and '.join(of.modalities)} features"
        parts = [
            features_of(folder, shown.index, num_clips, task.run.config.resources, title)
            for folder in of.features
        ]
        features = np.concatenate(parts, axis=1)
        margins = np.full(len(shown), np.nan, np.float32)
        there = np.isfinite(features).all(axis=1)
        if there.any():
            margins[there] = margins_of(of, features[there], task.run)
        seen[number] = replace(seen[number], features=features, margins=margins)
    return seen


def _of_modality(modality: str, last: Mapping[str, Seen]) -> np.ndarray | None:
    """The newest features of a modality; from a joint clustering its part of them."""
    for each in last.values():
        if each.features is None or modality not in each.of.modalities:
            continue
        width = each.features.shape[1] // len(each.of.modalities)
        at = each.of.modalities.index(modality) * width
        return each.features[:, at : at + width]
    return None


def _media(
    task: ReportTask, table: ClipTable, shown: ShownClips, seen: list[Seen]
) -> tuple[np.ndarray, list[str], np.ndarray, Mapping[str, int]]:
    """int32 [n], which medium each clip has (-1: none); ids and kinds of the media; losses."""
    media = np.full(len(shown), -1, np.int32)
    if not task.with_media:
        (task.out / "media").delete()
        return media, [], np.zeros(0, np.uint8), {}
    positions = _worth_playing(task, shown, seen)
    config = task.run.config
    previews = Previews(task.out / "media", config.clips, config.resources)
    kinds, losses = previews.make(table, shown.index[positions])
    if losses:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in losses.items())
        say(f"warning: the media of some clips cannot be shown: {reasons}")
    there = [n for n, kind in enumerate(kinds) if kind]
    media[positions[there]] = np.arange(len(there))
    ids = shown.rows["clip_id"].take(pa.array(positions[there])).to_pylist()
    return media, ids, np.array([int(kinds[n]) for n in there], np.uint8), losses


def _worth_playing(task: ReportTask, shown: ShownClips, seen: list[Seen]) -> np.ndarray:
    """int64, ascending: positions of the clips whose media are made, in all `task.playable`.

    First the last round's typical clips, then its others, then those of earlier rounds, always one
    of each cluster in turn; what is left goes to the sample.
    """
    last = {each.of.name: each for each in seen}
    wishes: list[np.ndarray] = []
    newest = {each.of.key for each in last.values()}
    earlier = [each for each in seen if each.of.key not in newest]
    for some in (list(last.values()), earlier):
        for kind in ("typical", "at_random"):
            wishes += [getattr(each.of, kind) for each in some]
    ranked = [wish[:, rank] for wish in wishes for rank in range(wish.shape[1])]
    rest = shown.index[np.random.default_rng(task.seed).permutation(len(shown))]
    order = np.concatenate([*ranked, rest])
    order = order[order >= 0]
    _, first = np.unique(order, return_index=True)
    chosen = order[np.sort(first)[: task.playable]]
    return np.sort(shown.positions(chosen))


def _across(
    task: ReportTask, seen: list[Seen], shown: ShownClips, playable: np.ndarray
) -> list[int]:
    """Write the tables of audio against video clusters; returns the rounds that have one."""
    rounds = []
    for number in sorted({each.of.number for each in seen}):
        pair = {each.of.name: each for each in seen if each.of.number == number}
        if set(pair) != set(MODALITIES):
            continue
        audio, video = pair["audio"], pair["video"]
        labels, ks = (audio.labels, video.labels), (audio.of.k, video.of.k)
        value = across(("audio", "video"), labels, ks, shown.sampled, playable)
        put(task.out / "data", f"across/{number}", value)
        rounds.append(number)
    return rounds


def _map(task: ReportTask, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write the map; returns float32 [n, 2] by modality."""
    spaces: dict[str, Any] = {}
    places, notes = {}, []
    for modality, values in features.items():
        places[modality], note = projected(values, task.projection, task.seed)
        x, y = places[modality].T
        spaces[modality] = {"x": x, "y": y}
        notes.append(f"{modality.title()}: {note}")
    if spaces:
        number = task.run.last_round()
        value = {"round": number, "method": task.projection.upper(), "note": " ".join(notes)}
        put(task.out / "data", "map", value | {"spaces": spaces})
    return places


def _copy_page(out: Location) -> None:
    def copy(source: Traversable, to: Location) -> None:
        for item in source.iterdir():
            if item.is_dir():
                copy(item, to / item.name)
            else:
                (to / item.name).write_bytes(item.read_bytes())

    copy(resources.files("pipeline.report") / "page", out)
