"""A plan in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.telemetry.console import duration, table

_STAGE = ("stage", "times", "clips", "starts", "work", "in all", "clips/s", "bound by")
_NAMES = {"rest": "job, round 0, commits", "store": "clip store, first fill"}
_OF = {
    "features": "features",
    "labels": "pseudo-labels",
    "encoders": "encoders of all rounds",
    "checkpoint": "checkpoint while learning",
    "clip_store": "clip store",
    "driver": "object store, driver's node",
    "batches": "object store, a decode node",
    "device": "object store, a training node",
}


def as_page(plan: dict[str, Any]) -> str:
    """Of `make_plan`'s values."""
    lines = [
        f"{plan['run']}: {plan['method']}, rounds {plan['rounds'][0]} to {plan['rounds'][1]}, "
        f"{plan['clips']:,} clips of {plan['indexed']:,} indexed, {plan['steps']:,} steps",
        f"on {_nodes(plan)}; training on {plan['device']}",
        "",
        table(_STAGE, [*_stages(plan)]),
        "",
        table(("what", "value", "from"), [*_facts(plan)]),
        "",
        f"bottleneck: {plan['bottleneck']}",
        *(f"change: {text}" for text in plan["advice"]),
    ]
    if plan["may_stop_early"]:
        lines.append("the run may settle or stop a round early; all of it is planned here")
    if plan["lost_share"]:
        lines.append(f"{plan['lost_share']:.0%} of the clips that were tried cannot be decoded")
    return "\n".join(lines)


def _nodes(plan: dict[str, Any]) -> str:
    return ", ".join(
        f"{kind['count']} {role} of {kind['cores']:g} cores"
        + (f" and {kind['gpus']:g} GPUs" if kind["gpus"] else "")
        for role, kind in plan["nodes"].items()
    )


def _stages(plan: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, stage in plan["stages"].items():
        if stage["times"]:
            throughput = plan["throughputs"].get(name)
            yield (
                _NAMES.get(name, name),
                f"{stage['times']}",
                f"{stage['clips']:,}" if stage["clips"] else "",
                duration(stage["start_s"]),
                duration(stage["work_s"]),
                duration(stage["seconds"]),
                f"{throughput['clips_per_second']:,.0f}" if throughput else "",
                stage["bound_by"],
            )
    starts = sum(stage["start_s"] for stage in plan["stages"].values())
    work = sum(stage["work_s"] for stage in plan["stages"].values())
    yield "in all", "", "", duration(starts), duration(work), duration(plan["seconds"]), "", ""


def _facts(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    measured = plan["measured"]
    stored = measured.get("store")
    for name, seconds in measured["decode_core_s"].items():
        yield f"decode {name}", f"{1000 * seconds:.2f} ms of a core a clip", "probed"
    for name, seconds in (stored or {"decode_core_s": {}})["decode_core_s"].items():
        yield f"decode {name}, stored", f"{1000 * seconds:.2f} ms of a core a clip", "probed"
    if stored:
        yield (
            "fill the clip store",
            f"{1000 * stored['fill_core_s']:.1f} ms of a core a clip",
            "probed",
        )
    for name, seconds in measured["encode_s"].items():
        yield f"encode {name}", f"{1000 * seconds:.2f} ms a clip", "probed"
    for number, seconds in measured["step_s"].items():
        size = measured["step_batch"][number]
        yield f"train, update {number}", f"{1000 * seconds:.2f} ms a clip", f"probed, batch {size}"
    for name in ("embed", "learn"):
        if name in plan["throughputs"]:
            cores = plan["throughputs"][name]["cores_a_device"]
            yield f"decode cores a device, {name}", f"{cores:.1f}", "computed"
    kmeans = measured["kmeans"]
    yield (
        "an iteration of k-means",
        f"{kmeans['iteration_s']:.3f} s",
        f"probed, {kmeans['rows']:,} vectors",
    )
    for name, words in _OF.items():
        if plan["bytes"][name]:
            yield words, _size(plan["bytes"][name]), "computed"
    for role, hours in plan["node_hours"].items():
        yield f"node-hours, {role}", f"{hours:.2f}", "computed"
    if cost := plan.get("cost"):
        yield "cost of the nodes", f"{cost['nodes']:,.2f} {cost['currency']}".strip(), "your prices"
        if "storage_month" in cost:
            month = f"{cost['storage_month']:,.2f} {cost['currency']}".strip()
            yield "storage, a month", month, "your prices"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
