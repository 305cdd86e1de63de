"""A run that was planned, at its end: the forecast against what it took, by stage."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.config import Config
from pipeline.manifest import digest_of
from pipeline.planning.timeline import STAGES
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.attempts import attempts_of
from pipeline.telemetry.console import duration, say, table
from pipeline.telemetry.events import EventLog

FILE = "plan.json"  # in the run directory
EVENT = "forecast"
_KEYS = {"made", "settings", "rounds", "stages", "seconds"}  # of a plan, that are read here
Row = tuple[float, float]  # forecast and actual, in seconds


def compare(run: Run, events: EventLog, job_s: float) -> None:
    """Say and note how the forecast fared, once, of a run that was planned with these settings.

    Args:
        job_s: that this process took before its attempt began.
    """
    plan = plan_of(run.location)
    if plan is None:
        return
    if plan["settings"] != settings_digest(run.config):
        say(f"{run.location / FILE} is of other settings: it is not compared")
        return
    told = [e for e in _events(run.location) if e["time"] >= plan["made"]]
    if any(event["event"] == EVENT for event in told):
        return
    rows = _rows(plan, told, job_s + _attempts_s(run.location, plan["made"]))
    done = sum(event["event"] == "round" for event in told)
    events.add(EVENT, stages={name: [*row] for name, row in rows.items()}, rounds=done)
    say(as_table(rows))


def settings_digest(config: Config) -> str:
    """Of all settings that a run's time depends on."""
    kept = config.model_dump(mode="json", exclude={"run", "tracking"})
    return digest_of(json.dumps(kept, sort_keys=True).encode())


def plan_of(place: Location) -> dict[str, Any] | None:
    """The plan that is kept with a run; None where there is none that can be read."""
    with suppress(FileNotFoundError, ValueError):
        found = (place / FILE).read_json()
        if isinstance(found, dict) and found.keys() >= _KEYS:
            return found
    return None


def forecast_of(place: Location) -> dict[str, Any] | None:
    """``planned_s``, and of a run that has ended its ``stages``: forecast and actual seconds."""
    plan = plan_of(place)
    if plan is None:
        return None
    ended = [e for e in _events(place) if e["event"] == EVENT and e["time"] >= plan["made"]]
    stages = ended[-1]["stages"] if ended else None
    return {"planned_s": plan["seconds"], "rounds": plan["rounds"], "stages": stages}


def as_table(rows: Mapping[str, Row | list[float]]) -> str:
    """Of the event's ``stages``."""
    shown = [
        (name, duration(forecast), duration(actual), _off(forecast, actual))
        for name, (forecast, actual) in rows.items()
        if forecast or actual
    ]
    return table(("stage", "forecast", "took", "off by"), shown)


def _rows(plan: dict[str, Any], told: list[dict[str, Any]], total_s: float) -> dict[str, Row]:
    took = dict.fromkeys(STAGES, 0.0)
    for event in told:
        if event["event"] in took:
            took[event["event"]] += event.get("seconds", 0.0)
    took["rest"] = max(total_s - sum(took.values()), 0.0)
    planned = {name: stage["seconds"] for name, stage in plan["stages"].items()}
    rows = {name: (planned[name], round(took[name], 2)) for name in STAGES}
    return rows | {"in all": (plan["seconds"], round(total_s, 2))}


def _events(place: Location) -> list[dict[str, Any]]:
    log = place / "events.jsonl"
    found = []
    for line in log.read_bytes().decode().splitlines() if log.exists() else ():
        with suppress(ValueError):  # a kill cut it
            found.append(json.loads(line))
    return found


def _attempts_s(place: Location, since: float) -> float:
    """Seconds of all tries that began since then; this one's go on."""
    found = [attempt for attempt in attempts_of(place) if attempt["began"] >= since]
    if not found:
        return 0.0
    *before, now = found
    return time.time() - now["began"] + sum(one["written"] - one["began"] for one in before)


def _off(forecast: float, actual: float) -> str:
    return f"{forecast / actual - 1:+.0%}" if actual else "–"
