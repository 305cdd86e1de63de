"""A plan: probes of what is there, a forecast of the whole run, its bytes and its cost.

Only ``plan.json`` of the run directory is written, and a scratch folder that goes again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from pipeline import methods
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.fill import not_stored, store_place
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.manifest import NAME
from pipeline.methods import Method
from pipeline.planning.counts import ClipCounts, update_steps
from pipeline.planning.fleet import Fleet, counts_of
from pipeline.planning.forecast import RunModel, plain
from pipeline.planning.needs import needs_of
from pipeline.planning.outcome import FILE
from pipeline.planning.plan_record import recorded
from pipeline.planning.prices import PriceTable
from pipeline.planning.probes import Probes
from pipeline.planning.timeline import ClipPass, Clustered, Timeline
from pipeline.run import Run, check
from pipeline.runtime import demands
from pipeline.runtime.placement import may_grow
from pipeline.telemetry.attempts import attempts_of, is_at_work
from pipeline.telemetry.console import say

_SCRATCH = "plan-scratch"
_MUCH_DECODING = 0.2  # of the time of learning: then a clip store is tried, too


@dataclass(frozen=True)
class Asked:
    """What the user asks of a plan."""

    prices: str = ""  # a file
    nodes: str = ""  # role=count,…
    job_s: float = 0.0  # that the job took until it was connected


def make_plan(config: Config, asked: Asked) -> dict[str, Any]:
    """Probe, forecast, and keep the plan in the run directory; plain values, for `as_page`.

    Raises:
        UserError: the settings do not fit the run, the clips or each other, somebody works on the
            run, or prices or nodes make no sense.
    """
    began, run = time.monotonic(), Run.fitting(config)[0]
    clips = ClipTable.open(run.clips)
    wanted = counts_of(asked.nodes) if asked.nodes else {}
    attempts = attempts_of(run.location)
    if attempts and is_at_work(run.location, attempts[-1]):
        raise UserError(
            f"process {attempts[-1]['pid']} on {attempts[-1]['host']} works on {run.location}: "
            "jobs/status.py says how long it will take; plan when it has ended"
        )
    fleet = Fleet.at_hand(config.resources)
    if not may_grow(config.resources):
        fleet.resized(wanted)
    prices = None
    if asked.prices:
        roles = [kind.role for kind in fleet.kinds]
        prices = PriceTable.read(asked.prices, [*roles, *config.resources.decode_on])
        prices.cost(dict.fromkeys(roles, 1.0))  # says at once what lacks
    method = check(config, methods.get(config.method), clips)
    _tell_awaited(config)
    last = run.last_round()
    clustered = _clustered(run, method, last)
    timeline = Timeline(config, method, last or 0, set(clustered))
    pieces = frozenset(plain(p) if isinstance(p, ClipPass) else p for p in timeline.pieces())
    scratch = run.location / _SCRATCH
    scratch.delete()
    try:
        probes = Probes(config, method, clips, pieces, scratch, fleet)
        measured = probes.measure(asked.job_s, config.store.enabled)
        # Nodes may have come for the probes.
        fleet = Fleet.at_hand(config.resources).resized(wanted)
        counts = ClipCounts.read(clips, config)
        model = RunModel(
            config=config,
            method=method,
            fleet=fleet,
            measured=measured,
            counts=counts,
            updates={
                number: update_steps(clips, counts, config, method, number)
                for number in range(len(method.updates))
            },
            last=last,
            clustered=clustered,
            to_store=_to_store(clips, run, config),
        )
        found = model.forecast()
        learning = found.throughputs.get("learn")
        worthwhile = learning is not None and learning.decode_share > _MUCH_DECODING
        if worthwhile and not config.store.enabled:
            measured = replace(measured, store=probes.store_time())
            model = replace(model, measured=measured)
        needs = needs_of(model, probes.drawn)
    finally:
        scratch.delete()
    plan = recorded(model, found, needs, prices)
    plan |= {"run": str(run.location), "took_s": round(time.monotonic() - began, 1)}
    (run.location / FILE).write_json(plan)
    return plan


def _tell_awaited(config: Config) -> None:
    """What the probes wait for: they ask for a node of each kind, as the stages do."""
    on_gpu = load_decoder(config.clips.decoder).on_gpu
    for stage in (demands.embedding(config, on_gpu), demands.learning(config, on_gpu)):
        if lacks := demands.awaited(stage):
            say(f"plan · {lacks}")


def _clustered(run: Run, method: Method, last: int | None) -> Clustered:
    if last is None:
        return set()
    place = run.round(last)
    there = [n for n in method.clusterings if (place.clusters(n) / NAME).exists()]
    return {(name, last) for name in there}


def _to_store(clips: ClipTable, run: Run, config: Config) -> int:
    if not config.store.enabled:
        return len(clips)
    return not_stored(clips, store_place(config, run.location), config)
