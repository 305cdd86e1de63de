"""A plan: probes of what is there, a forecast of the whole run, its bytes and its cost.

Only ``plan.json`` of the run directory is written, and a scratch folder that goes again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline import lease, methods
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.fill import not_stored, store_place
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.manifest import NAME
from pipeline.methods import Method
from pipeline.planning.advice import advice, bottleneck
from pipeline.planning.counts import ClipCounts, update_steps
from pipeline.planning.fleet import Fleet, counts_of
from pipeline.planning.forecast import Forecast, RunModel, plain
from pipeline.planning.needs import Needs, needs_of
from pipeline.planning.outcome import FILE
from pipeline.planning.prices import PriceTable
from pipeline.planning.probes import Probes
from pipeline.planning.timeline import ClipPass, Clustered, Timeline
from pipeline.run import Run, check
from pipeline.runtime import demands
from pipeline.runtime.placement import may_grow
from pipeline.telemetry.console import say

_SCRATCH = "plan-scratch"
IDLE_S = 300.0  # cluster.yaml: idle_timeout_minutes


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
    holder = lease.holder_of(run.location / "_LEASE")
    if holder is not None and not holder.is_dead:
        raise UserError(
            f"{holder} works on {run.location}: jobs/status.py says how long it will take; plan "
            "when it has ended"
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
        pace = found.paces.get("learn")
        if (
            pace
            and pace.decode_s > 0.2 * pace.seconds * max(fleet.decode_cores, 1)
            and (not config.store.enabled)
        ):
            measured = replace(measured, store=probes.store_time())
            model = replace(model, measured=measured)
        needs = needs_of(model, probes.drawn)
    finally:
        scratch.delete()
    plan = _told(model, found, needs, prices)
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


def _told(
    model: RunModel, found: Forecast, needs: Needs, prices: PriceTable | None
) -> dict[str, Any]:
    config, counts, fleet, measured = model.config, model.counts, model.fleet, model.measured
    hours = fleet.node_hours(found.order, IDLE_S)
    tried = [
        *measured.decoding.values(),
        *(measured.store.decoding.values() if measured.store else ()),
    ]
    plan: dict[str, Any] = {
        "made": round(time.time(), 1),
        "method": config.method,
        "rounds": [(model.last or 0) + 1, config.rounds],
        "clips": counts.chosen,
        "indexed": counts.indexed,
        "may_stop_early": bool(config.settled_nmi or config.learning.patience),
        "device": fleet.device,
        "nodes": {
            kind.role: {"count": kind.count, "cores": kind.cores, "gpus": kind.gpus}
            for kind in fleet.kinds
        },
        "stages": {
            name: {
                "times": stage.times,
                "clips": stage.clips,
                "start_s": round(stage.start_s, 2),
                "work_s": round(stage.work_s, 2),
                "seconds": round(stage.seconds, 2),
                "bound_by": stage.bound_by,
            }
            for name, stage in found.stages.items()
        },
        "seconds": round(found.seconds, 2),
        "node_hours": {role: round(value, 4) for role, value in hours.items()},
        "steps": sum(steps.steps for steps in model.updates.values()) * model.rounds,
        "paces": {
            name: {
                "decode_core_ms": round(1000 * pace.decode_s, 3),
                "device_ms": round(1000 * pace.device_s, 3),
                "clips_per_second": round(1 / pace.seconds, 1),
                "cores_a_device": round(pace.cores_a_device, 2),
            }
            for name, pace in found.paces.items()
        },
        "bytes": asdict(needs) | {"at_rest": needs.at_rest},
        "lost_share": max((one.lost / one.clips for one in tried), default=0.0),
        "bottleneck": bottleneck(found),
        "advice": advice(model, found, needs),
        "measured": _measured(model),
    }
    if prices is not None:
        plan["cost"] = _cost(prices, hours, needs)
    return plan


def _cost(prices: PriceTable, hours: Mapping[str, float], needs: Needs) -> dict[str, Any]:
    cost: dict[str, Any] = {"currency": prices.currency, "nodes": round(prices.cost(hours), 4)}
    if prices.storage_gb_month is not None:
        month = prices.storage_gb_month * needs.at_rest / 1e9
        cost["storage_month"] = round(month, 4)
    return cost


def _measured(model: RunModel) -> dict[str, Any]:
    """The probes, as numbers."""
    measured = model.measured

    def decoding(of: Mapping[Any, Any]) -> dict[str, float]:
        return {
            f"{'+'.join(m)}{' drawn' if drawn else ''}": _rounded(time.core_s)
            for (m, drawn), time in of.items()
        }

    found: dict[str, Any] = {
        "job_s": _rounded(measured.job_s),
        "encoders_s": _rounded(measured.encoders_s),
        "decode_core_s": decoding(measured.decoding),
        "encode_s": {
            f"{'+'.join(p.modalities)}{' raw' if p.raw else ''}": _rounded(t.clip_s)
            for p, t in measured.encoding.items()
        },
        "step_s": {str(number): _rounded(t[0].clip_s) for number, t in measured.steps.items()},
        "step_batch": {str(number): t[0].batch for number, t in measured.steps.items()},
        "held_out_s": {str(number): _rounded(t[1].clip_s) for number, t in measured.steps.items()},
        "kmeans": {name: _rounded(value) for name, value in asdict(measured.kmeans).items()},
        "embed_start_s": _rounded(measured.embed_start_s),
        "learn_start_s": _rounded(measured.learn_start_s),
    }
    if measured.store is not None:
        found["store"] = {
            "fill_core_s": _rounded(measured.store.fill.core_s),
            "start_s": _rounded(measured.store.start_s),
            "clip_bytes": round(measured.store.clip_bytes),
            "decode_core_s": decoding(measured.store.decoding),
        }
    return found


def _rounded(value: float) -> float:
    """To four digits."""
    if not value or isinstance(value, int):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))
