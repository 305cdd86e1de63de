"""The report of an evaluation for the console: one line for each encoder, modality and protocol."""

from __future__ import annotations

from typing import Any

from pipeline.telemetry.console import table


def as_table(report: dict[str, Any]) -> str:
    """Protocols one below the other, each with its own figures as columns."""
    tables = []
    for protocol in dict.fromkeys(row["protocol"] for row in report["results"]):
        rows = [row for row in report["results"] if row["protocol"] == protocol]
        names = list(rows[0]["mean"])
        lines = [[protocol, "encoder", *names]]
        for row in rows:
            cells = [_figure(row, name) for name in names]
            lines.append([row["modality"], row["encoder"], *cells])
        tables.append(aligned(lines))
    return "\n\n".join(tables)


def headline(report: dict[str, Any]) -> str:
    counts, splits = report["examples"], report["splits"]
    lost = "".join(f", {counts[k]:,} {k}" for k in ("missing", "rejected") if counts[k])
    sides = "; ".join(f"{name}: {s['train']:,}/{s['test']:,}" for name, s in splits.items())
    chances = [split["chance"] for row in report["results"] for split in row["by_split"].values()]
    chance = f", chance {sum(chances) / len(chances):.3f}" if chances else ""
    return (
        f"{report['dataset']}: {counts['listed']:,} examples listed{lost}, "
        f"{report['classes']} classes{chance}, {report['request']['clips_per_video']} clips each; "
        f"train/test {sides}"
    )


def _figure(row: dict[str, Any], name: str) -> str:
    """``0.781 ± 0.012`` over splits, ``0.781 [0.75, 0.81]`` on one, the plain figure else."""
    text = f"{row['mean'][name]:.3f}"
    if "std" in row:
        return f"{text} ± {row['std'][name]:.3f}"
    (split,) = row["by_split"].values() or [None]
    if split is not None and name == next(iter(row["mean"])):
        low, high = split["interval"]
        return f"{text} [{low:.3f}, {high:.3f}]"
    return text


def aligned(lines: list[list[str]]) -> str:
    return table(lines[0], lines[1:])
