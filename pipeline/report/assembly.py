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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.methods import MODALITIES
from pipeline.report.cards import cards
from pipeline.report.clustered import clusterings_of
from pipeline.report.clustering_measures import measured
from pipeline.report.confusions import confusions
from pipeline.report.crossings import across, flow
from pipeline.report.exported import CLIPS, REJECTED, write_clips, write_rejects
from pipeline.report.judgements import judgements
from pipeline.report.neighbours import neighbours
from pipeline.report.overview import overview
from pipeline.report.page_data import put
from pipeline.report.previews import SUFFIXES, Kind, Previews, worth_playing
from pipeline.report.projection import NOTES, projected
from pipeline.report.seen import Seen, features_in, seen_in
from pipeline.report.shown import ShownClips, sample
from pipeline.run import Run
from pipeline.status import status_of
from pipeline.storage import Location
from pipeline.telemetry.console import say

SUMMARY = "report.json"
_OF_CLIPS = "every shown clip with its clusters and places, for embedding-atlas and Spotlight"


@dataclass(frozen=True)
class ReportTask:
    """One report."""

    run: Run
    out: Location
    most_shown: int = 200_000  # clips on maps and in shares
    playable: int = 1200  # clips that can be seen and heard, 10 to 30 KB each
    media_bytes: int = 25_000_000  # that they may take
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
    indices = sample(len(table), task.most_shown, task.seed)
    shown = ShownClips.of(
        table, indices, [part for c in found for part in (c.typical, c.at_random)]
    )
    seen = seen_in(run, found, shown)
    last = {each.of.name: each for each in seen}
    features = {m: f for m in MODALITIES if (f := features_in(last, m)) is not None}

    media, ids, kinds, losses = _media(task, table, shown, seen)
    told, data = measured(seen, shown), out / "data"
    _write_clusterings(data, seen, shown)
    across = _write_across(data, seen, shown, media >= 0)
    places = _write_map(task, features)
    near = neighbours(features, media >= 0, shown.uri)
    if near is not None:
        put(data, "nearest", near)
    put(data, "clips", shown.columns(media, ids, kinds))
    put(data, "rejects", rejected := write_rejects(out, run))
    pictures = [
        f"media/{ids[n]}.jpg" if n >= 0 and kinds[n] & Kind.THUMBNAIL else None for n in media
    ]
    write_clips(out, shown, last, places, pictures)
    report = overview(run, status, told, len(table), len(shown)) | {
        "live": task.live,
        "playable": len(ids),
        "labelled": bool(shown.labels),
        "with_media": task.with_media,
        "media_suffix": SUFFIXES[Kind.PLAYABLE],
        "verdicts": [each._asdict() for each in judgements(told, run.config.method)],
        "rejected": rejected["total"],
        "confusions": {
            name: confusions(each.labels[shown.sampled], shown.label[shown.sampled], shown.labels)
            for name, each in last.items()
        },
        "flows": [
            {"name": each.of.name, "round": each.of.number} for each in seen if _past(each, seen)
        ],
        "across": across,
        "map": bool(places),
        "nearest": near is not None,
        "downloads": [[CLIPS, _OF_CLIPS], [REJECTED, "every reject"]],
    }
    put(data, "report", report)
    _copy_page(out)
    return Report(out / "index.html", len(shown), len(ids), losses)


def _past(each: Seen, seen: Sequence[Seen]) -> Seen | None:
    """The same clustering a round earlier."""
    key = (each.of.name, each.of.number - 1)
    return next((other for other in seen if (other.of.name, other.of.number) == key), None)


def _write_clusterings(data: Location, seen: Sequence[Seen], shown: ShownClips) -> None:
    for each in seen:
        others = {o.of.name: o for o in seen if o.of.number == each.of.number and o is not each}
        past = _past(each, seen)
        put(data, f"labels/{each.of.key}", each.labels)
        put(data, f"clusters/{each.of.key}", cards(each, shown, others, past))
        if past is not None:
            labels = (past.labels[shown.sampled], each.labels[shown.sampled])
            ks, numbers = (past.of.k, each.of.k), (past.of.number, each.of.number)
            put(data, f"flow/{each.of.key}", flow(*labels, ks, numbers))


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


def _media(
    task: ReportTask, table: ClipTable, shown: ShownClips, seen: list[Seen]
) -> tuple[np.ndarray, list[str], np.ndarray, Mapping[str, int]]:
    """int32 [n], which medium each clip has (-1: none); ids and kinds of the media; losses."""
    media = np.full(len(shown), -1, np.int32)
    if not task.with_media:
        (task.out / "media").delete()
        return media, [], np.zeros(0, np.uint8), {}
    positions = worth_playing(shown, seen, task.playable, task.seed)
    config = task.run.config
    previews = Previews(task.out / "media", config.clips, config.resources, task.media_bytes)
    kinds, losses = previews.make(table, shown.index[positions])
    if losses:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in losses.items())
        say(f"warning: the media of some clips cannot be shown: {reasons}")
    there = [n for n, kind in enumerate(kinds) if kind]
    media[positions[there]] = np.arange(len(there))
    ids = shown.rows["clip_id"].take(pa.array(positions[there])).to_pylist()
    return media, ids, np.array([int(kinds[n]) for n in there], np.uint8), losses


def _write_across(
    data: Location, seen: Sequence[Seen], shown: ShownClips, playable: np.ndarray
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
        put(data, f"across/{number}", value)
        rounds.append(number)
    return rounds


def _write_map(task: ReportTask, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write the map; returns float32 [n, 2] by modality."""
    spaces: dict[str, Any] = {}
    places, kept = {}, []
    for modality, values in features.items():
        places[modality], share = projected(values, task.projection, task.seed)
        x, y = places[modality].T
        spaces[modality] = {"x": x, "y": y}
        if share is not None:
            kept.append(f"{share:.0%} of the variance of {modality}")
    if spaces:
        note = f"{NOTES[task.projection]}{' Shown: ' + ', '.join(kept) + '.' if kept else ''}"
        value = {"round": task.run.last_round(), "method": task.projection.upper(), "note": note}
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
