"""The report's first page: what ran on what, curves, rejects, attempts and lost nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pipeline
from pipeline import settings
from pipeline.config import Config
from pipeline.report.clustering_measures import ClusteringMeasures
from pipeline.run import Run
from pipeline.telemetry.console import duration
from pipeline.telemetry.events import read_events

_CLUSTER_CURVES: tuple[tuple[str, str, str, Callable[[ClusteringMeasures], float | None]], ...] = (
    (
        "nmi",
        "Clusters, from round to round",
        "NMI with the round before. 1: the same clusters; it rises as a run settles.",
        lambda each: each.nmi_to_last,
    ),
    (
        "labels",
        "Clusters and labels",
        "NMI with the labels, which pretraining never sees.",
        lambda each: each.nmi_to_labels,
    ),
    (
        "agreement",
        "Picture and sound agree",
        "Adjusted mutual information of the two clusterings: 0 by chance. The best sign of "
        "learning that needs no labels.",
        lambda each: each.agreement,
    ),
    (
        "beyond",
        "They agree beyond the file",
        "The same without what the clips of one file share, such as the room or the speaker.",
        lambda each: each.beyond_files,
    ),
    (
        "files",
        "Clusters follow the file",
        "Adjusted mutual information with the files. High: clusters tell files apart.",
        lambda each: each.ami_to_files,
    ),
    (
        "churn",
        "Clips that changed cluster",
        "Share of the clips, after the best matching of the clusters.",
        lambda each: each.churn,
    ),
    (
        "effective",
        "Clusters in use",
        "Effective clusters (e to the entropy of the sizes), as a share of k. Below 0.3 clusters "
        "collapse.",
        lambda each: each.effective / each.k,
    ),
    (
        "imbalance",
        "Imbalance",
        "1: clusters of equal size; k: all clips in one.",
        lambda each: each.imbalance,
    ),
)
_LEARNED = (
    ("loss", "Loss", "", "Of the last epoch, for each head: it predicts the other's clusters."),
    ("held_out_loss", "Held-out loss", "", "On files that the round does not learn from."),
    ("accuracy", "Accuracy of the heads", "", "Share of pseudo-labels that are predicted."),
    ("held_out_accuracy", "Held-out accuracy", "", "On files that the round does not learn from."),
)


def overview(
    run: Run, status: Mapping[str, Any], found: Sequence[ClusteringMeasures], clips: int, shown: int
) -> dict[str, Any]:
    """Everything of the page's ``report`` that the run's own records give."""
    config, events = run.config, read_events(run.location)
    return {
        "title": run.location.name,
        "run": str(run.location),
        "made": time.time(),
        "release": pipeline.__version__,
        "method": config.method,
        "state": status["state"],
        "clips": clips,
        "shown": shown,
        "rounds_wanted": config.rounds,
        "rounds_done": status["done"],
        "facts": _facts(config, status, clips, shown),
        "settings": _chosen(config),
        "clusterings": _clusterings(found),
        "curves": [*_learning(events), *_clustering(found), *_rates(events)],
        "rejects": [
            {"stage": stage, "reason": reason, "count": count}
            for stage, reasons in status["rejects"].items()
            for reason, count in reasons.items()
        ],
        "timeline": _timeline(status, events),
        "node_hours": status["node_hours"],
    }


def _facts(
    config: Config, status: Mapping[str, Any], clips: int, shown: int
) -> list[tuple[str, str]]:
    encoders = {m: getattr(config.encoders, m) for m in ("video", "audio")}
    video, audio = config.clips.video, config.clips.audio
    facts = [
        ("Method", config.method),
        ("Clips", f"{clips:,}" + (f", {shown:,} of them shown" if shown < clips else "")),
        ("Rounds", f"{status['done']} of {config.rounds}"),
        *((f"{m.title()} encoder", _encoder(chosen)) for m, chosen in encoders.items()),
        ("A clip", f"{video.frames} frames at {video.fps:g}/s, {audio.window_s:g} s of sound"),
        ("Clusters", f"k = {config.clustering.k}"),
    ]
    attempts = status["attempts"]
    if attempts:
        seconds = sum(each["written"] - each["began"] for each in attempts)
        nodes = ", ".join(f"{n} {role}" for role, n in attempts[-1]["nodes"].items())
        facts.append(("Took", f"{duration(seconds)} in {len(attempts)} attempts"))
        if nodes:
            facts.append(("Nodes at the end", nodes))
    return facts


def _encoder(chosen: Any) -> str:
    start = getattr(chosen, "start", "")
    name = getattr(chosen, "name", str(chosen))
    return f"{name}, from {start}" if start else f"{name}, from random weights"


def _chosen(config: Config) -> list[tuple[str, str]]:
    """Settings that are not the defaults."""
    lines = settings.differences(Config().outcome(), config.outcome())
    pairs = (line.partition(": ") for line in lines)
    return [(name, change.rpartition(" → ")[2]) for name, _, change in pairs]


def _clusterings(found: Sequence[ClusteringMeasures]) -> list[dict[str, Any]]:
    names = dict.fromkeys(each.name for each in found)
    return [
        {
            "name": name,
            "rounds": [each.number for each in found if each.name == name],
            "k": next(each.k for each in reversed(found) if each.name == name),
        }
        for name in names
    ]


def _curve(
    name: str, title: str, unit: str, note: str, series: Mapping[str, Mapping[int, float | None]]
) -> dict[str, Any] | None:
    """Series → round → value; None where there is nothing."""
    kept = {n: {r: v for r, v in values.items() if v is not None} for n, values in series.items()}
    kept = {n: values for n, values in kept.items() if values}
    if not kept:
        return None
    rounds = sorted({number for values in kept.values() for number in values})
    return {
        "id": name,
        "title": title,
        "note": note,
        "unit": unit,
        "x": rounds,
        "series": [
            {"name": n, "values": [values.get(number) for number in rounds]}
            for n, values in kept.items()
        ],
    }


def _present(curves: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [curve for curve in curves if curve is not None]


def _clustering(found: Sequence[ClusteringMeasures]) -> list[dict[str, Any]]:
    curves = []
    for name, title, note, value in _CLUSTER_CURVES:
        series: dict[str, dict[int, float | None]] = {}
        for each in found:
            series.setdefault(each.name, {})[each.number] = value(each)
        if name in ("agreement", "beyond") and len(series) == 2:  # of both it is the same
            series = {"video and audio": next(iter(series.values()))}
        curves.append(_curve(name, title, "", note, series))
    return _present(curves)


def _learning(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of a round done twice the later one counts."""
    curves = []
    for kind, title, unit, note in _LEARNED:
        series: dict[str, dict[int, float | None]] = {}
        for event in events:
            for name, value in event.items() if event["event"] == "learn" else ():
                rest = name.removeprefix(f"{kind}_")
                if name.startswith(f"{kind}_") and rest.count("_") == 1:
                    who, whose = rest.split("_")
                    series.setdefault(f"{who} predicts {whose}", {})[event["round"]] = value
        curves.append(_curve(kind, title, unit, note, series))
    return _present(curves)


def _rates(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rates: dict[str, dict[int, float | None]] = {}
    waits: dict[str, dict[int, float | None]] = {}
    hours: dict[str, dict[int, float | None]] = {}
    for event in events:
        if event["event"] == "embed" and event.get("seconds"):
            which = f"embed {' and '.join(event['modalities'])}"
            rates.setdefault(which, {})[event["round"]] = event["clips"] / event["seconds"]
        elif event["event"] == "learn":
            waits.setdefault(f"update {event['update']}", {})[event["round"]] = event["wait"]
        elif event["event"] == "round":
            hours.setdefault("minutes", {})[event["round"]] = event["seconds"] / 60
    return _present(
        [
            _curve("rate", "Embedding", "clips/s", "Clips a second, start-up included.", rates),
            _curve(
                "wait",
                "Learning waits",
                "",
                "Share of the time in which learning waits for decoded clips.",
                waits,
            ),
            _curve("minutes", "A round takes", "min", "Minutes of each finished round.", hours),
        ]
    )


def _timeline(status: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    attempts = status["attempts"]
    return {
        "attempts": [
            {
                "number": number,
                "began": each["began"],
                "ended": each["written"],
                "how": each.get("ended", "working"),
                "nodes": each["nodes"],
            }
            for number, each in enumerate(attempts, 1)
        ],
        "rounds": [{"round": e["round"], "at": e["time"]} for e in events if e["event"] == "round"],
        "losses": [
            {"at": at, "what": f"a node of the role {role} went away"}
            for each in attempts
            for at, role in each.get("lost", ())
        ],
    }
