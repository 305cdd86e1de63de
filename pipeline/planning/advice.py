"""What holds a run up, and what changing it would give: the same model, asked again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pipeline.planning.fleet import Fleet
from pipeline.planning.forecast import Forecast, RunModel
from pipeline.planning.needs import Needs
from pipeline.telemetry.console import duration

_MUCH = 0.3  # of the whole
_SOME = 0.1
_SLOWER = 1.15  # what a clip of half a batch takes, from which on larger ones are worth a trial


def bottleneck(found: Forecast) -> str:
    """The stage that takes longest, and what it waits for."""
    named = {name: stage for name, stage in found.stages.items() if stage.seconds}
    starts = sum(stage.start_s for stage in named.values())
    if starts > found.seconds / 2:
        return "starting stages"
    name = max(named, key=lambda each: named[each].seconds)
    of_it = f": {named[name].bound_by}" if named[name].bound_by else ""
    return f"{name}{of_it}"


def advice(model: RunModel, found: Forecast, needs: Needs) -> list[str]:
    """Sentences, those first that save most."""
    options = [*_decoding(model, found), *_device(model, found), *_embedding(model, found)]
    options.sort(key=lambda option: option[0])
    said = [text for seconds, text in options if seconds < (1 - _SOME / 2) * found.seconds]
    starts = sum(stage.start_s for stage in found.stages.values())
    if starts > _MUCH * found.seconds:
        said.append(
            f"{starts / found.seconds:.0%} of the time are starts of stages, which do not grow "
            "with clips: fewer rounds of more learning.epochs have fewer of them"
        )
    return said + _store_room(model, needs)


Option = tuple[float, str]  # seconds of the run then, what to do


def _decoding(model: RunModel, found: Forecast) -> list[Option]:
    pace, fleet, options = found.paces.get("learn"), model.fleet, list[Option]()
    if pace is None:
        return options
    if pace.bound_by == "decoding" and not model.decodes_on_gpu and fleet.decoders:
        wanted = pace.cores_a_device * model.config.learning.workers
        more = _with_cores(fleet, wanted)
        seconds = replace(model, fleet=more).forecast().seconds
        options.append(
            (
                seconds,
                f"{wanted:.0f} decode cores (there are {fleet.decode_cores:g}) keep the "
                f"device busy: {_then(seconds)}",
            )
        )
    store = model.measured.store
    if store is not None and not model.config.store.enabled:
        config = _changed(model, store={"enabled": True})
        stored = replace(model, config=config, to_store=model.counts.indexed).forecast()
        options.append(
            (
                stored.seconds,
                f"store.enabled=true: {_then(stored.seconds)}, of which "
                f"{duration(stored.stages['store'].seconds)} fill the clip store once",
            )
        )
    return options


def _device(model: RunModel, found: Forecast) -> list[Option]:
    pace, options = found.paces.get("learn"), list[Option]()
    if pace is None:
        return options
    if model.fleet.device == "cpu":
        work = found.stages["learn"].work_s
        if pace.bound_by == "the device" and work > _MUCH * found.seconds:
            options.append(
                (
                    found.seconds - work,
                    "training on CPUs takes most of the time: a GPU "
                    "(resources.device=cuda) does a step many times faster",
                )
            )
        return options
    workers = model.config.learning.workers
    if pace.bound_by == "the device":
        config = _changed(model, learning={"workers": 2 * workers})
        config = config.model_copy(
            update={
                "embedding": config.embedding.model_copy(
                    update={"max_actors": 2 * config.embedding.max_actors}
                )
            }
        )
        fleet = _with_gpus(model.fleet, 2)
        seconds = replace(model, config=config, fleet=fleet).forecast().seconds
        options.append(
            (
                seconds,
                f"learning.workers={2 * workers} on twice the GPUs: {_then(seconds)}; a "
                "step then has twice the clips",
            )
        )
    step = max((steps[0] for steps in model.measured.steps.values()), key=lambda s: s.half)
    if step.half > _SLOWER:
        options.append(
            (
                found.seconds * 0.9,
                "a larger learning.batch_size: with half of it a clip takes "
                f"{step.half:.1f} times as long, so the device is not full yet",
            )
        )
    return options


def _embedding(model: RunModel, found: Forecast) -> list[Option]:
    work = found.stages["embed"].work_s
    if model.config.embedding.from_training or work < _SOME * found.seconds:
        return []
    config = _changed(model, embedding={"from_training": True})
    seconds = replace(model, config=config).forecast().seconds
    return [
        (
            seconds,
            f"embedding.from_training=true: {_then(seconds)}; the features are those of "
            "augmented clips then",
        )
    ]


def _store_room(model: RunModel, needs: Needs) -> list[str]:
    said = []
    whole = needs.driver + needs.batches + needs.device
    for kind in model.fleet.kinds:
        asked = (
            whole
            if not model.fleet.roles
            else {"head": needs.driver, "gpu": needs.device}.get(kind.role, 0)
        )
        if kind.role in model.fleet.decode_on and model.fleet.roles:
            asked += needs.batches
        if asked > kind.store_bytes > 0:
            said.append(
                f"the object store of a {kind.role} node should hold {asked / 1e9:.1f} GB, and has "
                f"{kind.store_bytes / 1e9:.1f}: it would spill to disk (resources.object_store_mb, "
                "or nodes with more memory)"
            )
    return said


def _then(seconds: float) -> str:
    return f"{duration(seconds)} in all"


def _changed(model: RunModel, **sections: dict[str, Any]) -> Any:
    config = model.config
    changed = {n: getattr(config, n).model_copy(update=v) for n, v in sections.items()}
    return config.model_copy(update=changed)


def _with_cores(fleet: Fleet, cores: float) -> Fleet:
    """With so many nodes that decode that they have as many cores."""
    each = sum(kind.cores for kind in fleet.decoders)
    counts = {kind.role: math.ceil(cores / each) for kind in fleet.decoders}
    return fleet.resized({r: max(n, fleet.count(r)) for r, n in counts.items()})


def _with_gpus(fleet: Fleet, times: int) -> Fleet:
    return fleet.resized({k.role: times * k.count for k in fleet.kinds if k.gpus})
