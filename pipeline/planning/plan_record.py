"""A plan as plain values: what ``plan.json`` holds and ``--plan --json`` prints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.planning.advice import advice, bottleneck
from pipeline.planning.forecast import Forecast, RunModel
from pipeline.planning.needs import Needs
from pipeline.planning.outcome import settings_digest
from pipeline.planning.prices import PriceTable

IDLE_S = 300.0  # of a node before it is given back, cluster.yaml: idle_timeout_minutes


def recorded(
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
        "settings": settings_digest(config),
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
        "throughputs": {
            name: {
                "decode_core_ms": round(1000 * throughput.decode_s, 3),
                "device_ms": round(1000 * throughput.device_s, 3),
                "clips_per_second": round(1 / throughput.seconds, 1),
                "cores_a_device": round(throughput.cores_a_device, 2),
            }
            for name, throughput in found.throughputs.items()
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
        "embed_again_s": _rounded(measured.embed_again_s),
        "learn_start_s": _rounded(measured.learn_start_s),
        "learn_again_s": _rounded(measured.learn_again_s),
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
