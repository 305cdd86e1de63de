"""``benchmarks/kmeans.json`` as the tables of ``benchmarks/kmeans.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(results: dict[str, Any]) -> str:
    """Markdown of all sections that have been run."""
    makers = {
        "process": _process,
        "gpu": _gpu,
        "shards": _shards,
        "scale": _scale,
        "labels": _labels,
    }
    parts = ["# k-means\n\nMade by `python benchmarks/kmeans.py`; numbers in `kmeans.json`.\n"]
    for name, make in makers.items():
        if name in results:
            parts += [make(results[name]["rows"]), _machine(results[name]["machine"])]
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


def _process(rows: list[dict[str, Any]]) -> str:
    def line(row: dict[str, Any]) -> str:
        cells = [f"{row['data']} | {row['n']:,} x {row['d']} | {row['k']} | {row['threads']}"]
        for name in ("faiss", "ours", "sklearn"):
            if name not in row:
                cells.append("– | –")
                continue
            iterations = len(row[name]["objective"])
            clocks = [row[name][c] / iterations for c in ("seconds", "cpu_seconds")]
            cells.append(f"{clocks[0]:.3f} | {clocks[1]:.3f}")
        ratios = [row.get(f"ratio_to_faiss_{c}", float("nan")) for c in ("seconds", "cpu_seconds")]
        same = min(len(row["faiss"]["objective"]), len(row["ours"]["objective"])) - 1
        ours, theirs = (row[c]["objective"][same] for c in ("ours", "faiss"))
        peak = row["ours"]["of_sgemm_peak"]
        return " | ".join(
            [*cells, *(f"{r:.2f}" for r in ratios), f"{ours / theirs - 1:+.1e}", f"{peak:.2f}"]
        )

    head = (
        "data | rows | k | threads | faiss s | faiss cpu s | ours s | ours cpu s | sklearn s | "
        "sklearn cpu s | ours / faiss | the same, cpu | objective, relative | of sgemm peak"
    )
    return (
        "## One process, seconds per iteration\n\nTarget: at most 0.7 of faiss's time at equal "
        "objective. Where the load average (below) exceeds the "
        "threads that were asked for, the machine was shared: then the wall-clock columns say "
        "nothing, and even processor seconds are only good to some 20%.\n\n"
    ) + _grid(head, map(line, rows))


def _gpu(rows: list[dict[str, Any]]) -> str:
    head = "rows | k | threads | cores s | GPU s | GPU / cores | objective, relative"

    def line(row: dict[str, Any]) -> str:
        cpu, cuda = (row[name] for name in ("cpu", "cuda"))
        each = [one["seconds"] / len(one["objective"]) for one in (cpu, cuda)]
        return (
            f"{row['n']:,} x {row['d']} | {row['k']} | {row['threads']} | {each[0]:.3f} | "
            f"{each[1]:.3f} | {each[1] / each[0]:.2f} | "
            f"{cuda['objective'][-1] / cpu['objective'][-1] - 1:+.1e}"
        )

    title = f"## The products on one {rows[0]['gpu']}, seconds per iteration\n\n"
    return title + _grid(head, map(line, rows))


def _shards(rows: list[dict[str, Any]]) -> str:
    head = "shard actors | seconds, 10 iterations | to one process"
    lines = (f"{r['shards']} | {r['seconds']:.2f} | {r['overhead']:+.0%}" for r in rows)
    return "## Sharding on two cores\n\nTarget: at most +5%.\n\n" + _grid(head, lines)


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
        f"## Scale\n\nTwo shards with {budget} MB for vectors each, the rest on local disk. "
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

    return "## Labels to all readers of a node\n\n" + _grid(head, map(line, rows))
