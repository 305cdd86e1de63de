"""What a run does or did, from its directory alone, which is only read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.clips.indexing import REJECTS
from pipeline.clips.table import ClipTable
from pipeline.errors import UserError
from pipeline.methods import MODALITIES
from pipeline.planning import outcome
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.attempts import DONE, INTERRUPTED, attempts_of, is_at_work
from pipeline.telemetry.console import duration, table
from pipeline.telemetry.events import read_events

_SHOWN = 10  # of the last attempts
_OF_CLUSTERS = ("nmi_to_last", "effective_clusters", *(f"agreement_with_{m}" for m in MODALITIES))
_WORDS = {"nmi_to_last": "NMI", **{f"agreement_with_{m}": "agrees" for m in MODALITIES}}
_ROUND = ("round", "took", "clips", "loss", "clusters", "waiting")
_ATTEMPT = ("attempt", "began", "lasted", "by", "nodes", "ended")


def status_of(place: Location) -> dict[str, Any]:
    """Plain values, for `as_text` and for JSON.

    Keys: ``run``, ``state`` (``working``, ``finished``, ``interrupted``, ``failed``, ``killed``,
    ``begun``), ``clips``, ``method``, ``rounds`` (wanted), ``done`` (the last finished round),
    ``stage``, ``by_round``, ``rejects`` (stage → reason → rows), ``attempts``, ``node_hours``,
    ``forecast`` (of a run that was planned; else None).

    Raises:
        UserError: there is no run and no index of one, or its settings cannot be read.
    """
    if not (place / "clips").children() and not (place / "config.yaml").exists():
        raise UserError(f"{place} is not a run: jobs/index.py begins one")
    config = run.config if (run := _run(place)) else None
    last = run.last_round() if run else None
    attempts = attempts_of(place)
    found: dict[str, Any] = {
        "run": str(place),
        "state": _state(place, attempts, config is not None and last == config.rounds),
        "clips": len(ClipTable.open(place / "clips")) if (place / "clips").children() else 0,
        "method": config.method if config else None,
        "rounds": config.rounds if config else None,
        "done": last,
        "stage": attempts[-1]["stage"] if attempts else None,
        "by_round": _by_round(place),
        "rejects": _rejects(place),
        "attempts": attempts,
        "node_hours": _node_hours(attempts),
        "forecast": outcome.forecast_of(place),
    }
    for attempt in attempts if found["state"] != "working" else attempts[:-1]:
        attempt.setdefault("ended", "killed")
    return found


def _run(place: Location) -> Run | None:
    return Run.existing(place.full_uri) if (place / "config.yaml").exists() else None


def _state(place: Location, attempts: list[dict[str, Any]], is_done: bool) -> str:
    if not attempts:
        return "finished" if is_done else "begun"
    last = attempts[-1]
    if ended := last.get("ended"):
        return {DONE: "finished", INTERRUPTED: "interrupted"}.get(ended, "failed")
    return "working" if is_at_work(place, last) else "killed"


def _by_round(place: Location) -> list[dict[str, Any]]:
    """Of each round the last of its events; numbers of an older try give way to newer ones."""
    rounds: dict[int, dict[str, Any]] = {}
    for event in read_events(place):
        if "round" not in event:
            continue
        row = rounds.setdefault(event["round"], {"round": event["round"]})
        if event["event"] == "round":
            row |= {"finished": event["time"], "seconds": event["seconds"]}
        elif event["event"] == "embed":
            row |= {name: event[name] for name in ("clips", "rejected")}
        elif event["event"] == "learn":
            losses = {n.removeprefix("loss_"): v for n, v in event.items() if n.startswith("loss_")}
            row.setdefault("loss", {}).update(losses)
            row["waiting"] = event["wait"]
        elif event["event"] == "cluster":
            told = {name: event[name] for name in _OF_CLUSTERS if name in event}
            row.setdefault("clusters", {})[event["clustering"]] = told
    return [rounds[number] for number in sorted(rounds)]


def _rejects(place: Location) -> dict[str, dict[str, int]]:
    """Rows by reason, of the index and of the rounds; a file at a time."""
    found: dict[str, Counter[str]] = {"index": Counter(), "rounds": Counter()}
    for stage, file in _reject_files(place):
        counts = file.read_table(["reason"])["reason"].value_counts().to_pylist()
        found[stage].update({each["values"]: each["counts"] for each in counts})
    return {stage: dict(counts.most_common()) for stage, counts in found.items() if counts}


def _reject_files(place: Location) -> Iterator[tuple[str, Location]]:
    if (place / REJECTS).exists():
        yield "index", place / REJECTS
    for folder in (place / "rounds").children():
        for file in (place / "rounds" / folder.base_name / "rejects").files(".parquet"):
            yield "rounds", file


def _node_hours(attempts: list[dict[str, Any]]) -> dict[str, float]:
    roles = sorted({role for attempt in attempts for role in attempt["node_hours"]})
    return {
        role: round(sum(attempt["node_hours"].get(role, 0.0) for attempt in attempts), 3)
        for role in roles
    }


def as_text(found: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [f"{found['run']}: {_headline(found)}"]
    if found["state"] == "working":
        lines.append(_stage(found["attempts"][-1]))
    if found["by_round"]:
        lines += ["", table(_ROUND, [_round_row(row) for row in found["by_round"]])]
    for stage, counts in found["rejects"].items():
        told = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
        lines += ["", f"rejects of the {stage}: {told}"]
    if found["attempts"]:
        first = max(len(found["attempts"]) - _SHOWN, 0)
        rows = [_attempt_row(n + 1, a) for n, a in enumerate(found["attempts"])][first:]
        lines += ["", table(_ATTEMPT, rows)]
        lines.append(f"node-hours: {_counts(found['node_hours'])}")
    if found["forecast"]:
        lines += ["", *_forecast(found["forecast"])]
    return "\n".join(lines)


def _forecast(planned: dict[str, Any]) -> Iterator[str]:
    if planned["stages"]:
        yield outcome.as_table(planned["stages"])
    else:
        first, last = planned["rounds"]
        yield f"planned: {duration(planned['planned_s'])} for rounds {first} to {last}"


def _headline(found: dict[str, Any]) -> str:
    if found["rounds"] is None:
        return f"indexed, {found['clips']:,} clips; jobs/pretrain.py has not begun"
    done = "no round is finished yet" if found["done"] is None else f"round {found['done']}"
    of = "" if found["done"] is None else f" of {found['rounds']} is done"
    last = found["attempts"][-1] if found["attempts"] else {}
    why = f" ({last['ended']})" if found["state"] == "failed" else ""
    return f"{found['state']}{why} · {found['method']} · {found['clips']:,} clips · {done}{of}"


def _stage(attempt: dict[str, Any]) -> str:
    stage, ago = attempt["stage"], duration(max(time.time() - attempt["written"], 0))
    if stage is None:
        return f"{attempt['said']} ({ago} ago)"
    told = [stage["title"], f"{stage['done']:,}/{stage['total']:,} {stage['unit']}"]
    if stage["per_second"] is not None:
        told.append(f"{stage['per_second']:,.1f}/s")
    if stage["left_s"] is not None:
        told.append(f"{duration(stage['left_s'])} left")
    if stage["waits_for"]:
        told.append(stage["waits_for"])
    return f"{' · '.join(told)} ({ago} ago)"


def _round_row(row: dict[str, Any]) -> tuple[str, ...]:
    took = duration(row["seconds"]) if "seconds" in row else "–"
    clips = f"{row['clips']:,}" if "clips" in row else "–"
    loss = ", ".join(f"{n.replace('_', ' ')} {v:.3f}" for n, v in row.get("loss", {}).items())
    waits = f"{row['waiting']:.0%}" if "waiting" in row else "–"
    cells = [_cluster(*each) for each in row.get("clusters", {}).items()]
    clusters = ", ".join(filter(None, cells))
    return str(row["round"]), took, clips, loss or "–", clusters or "–", waits


def _cluster(name: str, told: dict[str, float]) -> str:
    shown = [f"{word} {told[key]:.2f}" for key, word in _WORDS.items() if key in told]
    return f"{name} {' '.join(shown)}" if shown else ""


def _attempt_row(number: int, attempt: dict[str, Any]) -> tuple[str, ...]:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(attempt["began"]))
    lasted = duration(attempt["written"] - attempt["began"])
    by = f"{attempt['host']} ({attempt['pid']})"
    return str(number), began, lasted, by, _counts(attempt["nodes"]), attempt.get("ended", "–")


def _counts(by_role: dict[str, float]) -> str:
    return ", ".join(f"{role} {count:g}" for role, count in by_role.items()) or "none"
