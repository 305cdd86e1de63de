"""``benchmarks/kmeans.json`` as the tables of ``benchmarks/kmeans.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """All sections; those that were not run yet say so."""
    parts = ["# k-means\n\nMade by `python benchmarks/kmeans.py`; numbers in `kmeans.json`.\n"]
    for name, (title, make) in _SECTIONS.items():
        parts.append(f"## {title}\n")
        if name in results:
            parts += [make(results[name]["rows"]), _machine(results[name]["machine"])]
        else:
            parts.append(f"Not measured yet: `python benchmarks/kmeans.py {name}`.\n")
    return "\n".join(parts)


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GB; Python "
        f"{machine['python']}, {versions}; commit {machine['commit']}, {machine['date']}; load "
        f"average of the machine before and after {machine.get('load', 'not noted')}.\n"
    )


def _grid(head: str, rows: Iterable[str]) -> str:
    columns = head.count("|") + 1
    return (
        "\n".join([f"| {head} |", "|---" * columns + "|", *(f"| {row} |" for row in rows)]) + "\n"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    names = ("faiss", "before", "now", "before, 2 shards", "now, 2 shards")

    def ratio(row: dict[str, Any], one: str, other: str) -> str:
        if one not in row or other not in row:
            return "–"
        return f"{row[one]['seconds'] / row[other]['seconds']:.2f}"

    def line(row: dict[str, Any]) -> str:
        cells = [row["data"], f"{row['n']:,} x {row['d']}", str(row["k"])]
        cells += [f"{row[name]['seconds']:.3f}" if name in row else "–" for name in names]
        cells += [
            ratio(row, "before", "faiss"),
            ratio(row, "now", "faiss"),
            ratio(row, "before, 2 shards", "before"),
            ratio(row, "now, 2 shards", "now"),
            f"{row['now']['objective'][-1] / row['faiss']['objective'][-1] - 1:+.1e}",
        ]
        return " | ".join(cells)

    head = (
        "data | rows | k | faiss alone | before | now | before, 2 shards | now, 2 shards | "
        "before / faiss | now / faiss | before, shards / process | now, shards / process | "
        "objective, now to faiss"
    )
    first = rows[0]
    return (
        f"Seconds per iteration. One process has {first['threads']} threads; of two shards, actors "
        f"on Ray, each has one core. Before: commit {first['before_commit']}. Contenders took "
        "turns, iteration by iteration. Target: now at most 1.05 of faiss, two shards at most 1.05 "
        "of one process.\n\n"
    ) + _grid(head, map(line, rows))


def _gpu(rows: list[dict[str, Any]]) -> str:
    head = "rows | k | threads | cores | GPU | GPU / cores | objective, relative"

    def line(row: dict[str, Any]) -> str:
        cores, there = row["cores"], row["gpu"]
        return (
            f"{row['n']:,} x {row['d']} | {row['k']} | {row['threads']} | {cores['seconds']:.3f} | "
            f"{there['seconds']:.3f} | {there['seconds'] / cores['seconds']:.2f} | "
            f"{there['objective'][-1] / cores['objective'][-1] - 1:+.1e}"
        )

    return f"Seconds per iteration on one {rows[0]['name']}.\n\n" + _grid(head, map(line, rows))


def _scale(rows: list[dict[str, Any]]) -> str:
    head = "rows | seconds per iteration | per million rows | loading s | peak RSS MB, all actors"
    lines = (
        f"{r['n']:,} x {r['d']} | {r['seconds_per_iteration']:.2f} | "
        f"{r['seconds_per_iteration'] / r['n'] * 1e6:.3f} | {r['loading_seconds']:.1f} | "
        f"{r['peak_rss_mb']:.0f}"
        for r in rows
    )
    budget = rows[0]["budget_mb_per_shard"] if rows else 0
    return (
        f"Two shards with {budget} MB for vectors each, the rest on local disk. "
        "Target: per million rows within 15%, at most 3 GB.\n\n"
    ) + _grid(head, lines)


def _labels(rows: list[dict[str, Any]]) -> str:
    head = "labels | readers | put s | first use s, median and worst | private MB, worst | store MB"

    def line(row: dict[str, Any]) -> str:
        first = sorted(row["first_use_seconds"])
        return (
            f"{row['n']:,} | {row['workers']} | {row['put_seconds']:.2f} | "
            f"{first[len(first) // 2]:.4f}, {first[-1]:.4f} | {max(row['private_mb']):.1f} | "
            f"{row['store_mb']:.0f} (the array: {row['array_mb']:.0f})"
        )

    return _grid(head, map(line, rows))


_SECTIONS = {
    "table": ("faiss alone, before, now", _table),
    "gpu": ("On a GPU", _gpu),
    "scale": ("Scale", _scale),
    "labels": ("Labels to all readers of a node", _labels),
}
