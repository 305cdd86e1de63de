"""The report of an evaluation for the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.feature_sources import START
from pipeline.telemetry.console import table

Row = Mapping[str, Any]  # of a report's ``results``


def as_table(report: Mapping[str, Any]) -> str:
    """A table a protocol, one below the other: a line for each encoder and modality."""
    tables = []
    for protocol in dict.fromkeys(row["protocol"] for row in report["results"]):
        rows = [row for row in report["results"] if row["protocol"] == protocol]
        names = list(rows[0]["mean"])
        lines = [[r["modality"], r["encoder"], *(_figure(r, name) for name in names)] for r in rows]
        tables.append(table([protocol, "encoder", *names], lines))
    return "\n\n".join(tables)


def by_round(report: Mapping[str, Any]) -> str:
    """A line a round: the linear probe's accuracy of both encoders, and NMI of the clusters."""
    columns = {"linear": ("accuracy", "{} probe [95%]"), "pseudo-labels": ("nmi", "{} NMI")}
    cells: dict[int, dict[str, str]] = {}
    heads: list[str] = []
    for protocol, (name, head) in columns.items():
        rows = [row for row in report["results"] if row["protocol"] == protocol]
        for row in rows:
            cells.setdefault(row["round"], {})[head.format(row["modality"])] = _figure(row, name)
        heads += dict.fromkeys(head.format(row["modality"]) for row in rows)
    zero = next((f"0 ({row['encoder']})" for row in report["results"] if row["round"] == 0), "0")
    lines = [
        [str(number) if number else zero, *(found.get(head, "–") for head in heads)]
        for number, found in cells.items()
    ]
    return table(["round", *heads], lines)


def below_start(report: Mapping[str, Any]) -> list[str]:
    """Encoders of rounds that are worse than what the run began with, a line each."""
    found = []
    for row in report["results"]:
        for start in report["results"]:
            same = all(row[name] == start[name] for name in ("protocol", "modality"))
            name = next(iter(row["mean"]))
            if start["encoder"] != START or not same or not row["round"]:
                continue
            now, before = row["mean"][name], start["mean"][name]
            if now < before:
                found.append(
                    f"warning: {row['encoder']}, {row['modality']}: {row['protocol']} {name} "
                    f"{now:.3f} is below the start's {before:.3f}"
                )
    return found


def headline(report: Mapping[str, Any]) -> str:
    """The method, what it was evaluated on, and what guessing gives."""
    counts, splits = report["examples"], report["splits"]
    lost = "".join(f", {counts[k]:,} {k}" for k in ("missing", "rejected") if counts[k])
    sides = "; ".join(f"{name}: {s['train']:,}/{s['test']:,}" for name, s in splits.items())
    chances = [split["chance"] for row in report["results"] for split in row["by_split"].values()]
    chance = f", chance {sum(chances) / len(chances):.3f}" if chances else ""
    clips = report["request"]["clips_per_video"]
    overlap = report["learned_from"]
    seen = "; ".join(f"{n}: {k:,}" for n, k in overlap.items() if k)
    learned = f"; test examples that were learned from: {seen}" if seen else ""
    return (
        f"{report['method']}, k {report['k']} · {report['dataset']}: {counts['listed']:,} examples "
        f"listed{lost}, {report['classes']} classes{chance}, "
        f"{clips} clip{'s' if clips > 1 else ''} each; train/test {sides}{learned}"
    )


def _figure(row: Row, name: str) -> str:
    """``0.781 ± 0.012`` over splits, ``0.781 [0.750, 0.810]`` on one, the plain figure else."""
    text = f"{row['mean'][name]:.3f}"
    if "std" in row:
        return f"{text} ± {row['std'][name]:.3f}"
    (split,) = row["by_split"].values() or [None]
    if split is not None and name == next(iter(row["mean"])):
        low, high = split["interval"]
        return f"{text} [{low:.3f}, {high:.3f}]"
    return text
