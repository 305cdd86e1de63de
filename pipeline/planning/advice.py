"""What holds a run up, and what changing it would give: the same model, asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.planning.forecast import Forecast, RunModel
from pipeline.planning.needs import Needs
from pipeline.runtime.placement import GPU
from pipeline.telemetry.console import duration

_MUCH = 0.3  # of the whole, that starts of stages may take
_LEAST = 0.05  # of the whole, that a change should save
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
    said = [what for seconds, what in sorted(options) if seconds < (1 - _LEAST) * found.seconds]
    starts = sum(stage.start_s for stage in found.stages.values())
    if starts > _MUCH * found.seconds:
        said.append(
            f"{starts / found.seconds:.0%} of the time are starts of stages, which do not grow "
            "with clips: fewer rounds of more learning.epochs have fewer of them"
        )
    return [*said, *_store_room(model, needs)]


class Option(NamedTuple):
    """Something to change."""

    seconds: float  # of the run then
    what: str


def _decoding(model: RunModel, found: Forecast) -> Iterator[Option]:
    throughput, fleet = found.throughputs.get("learn"), model.fleet
    apart = not (fleet.shares_cores or model.decodes_on_gpu)
    if throughput and throughput.bound_by == "decoding" and fleet.decoders and apart:
        wanted = throughput.cores_a_device * model.config.learning.workers
        seconds = replace(model, fleet=fleet.with_cores(wanted)).forecast().seconds
        what = f"{wanted:.0f} decode cores (there are {fleet.decode_cores:g}) keep the device busy"
        yield Option(seconds, f"{what}: {_then(seconds)}")
    if model.measured.store is not None and not model.config.store.enabled:
        config = _changed(model.config, "store", enabled=True)
        stored = replace(model, config=config, to_store=model.counts.indexed).forecast()
        filled = duration(stored.stages["store"].seconds)
        what = f"store.enabled=true: {_then(stored.seconds)}, {filled} of it for the first fill"
        yield Option(stored.seconds, what)


def _device(model: RunModel, found: Forecast) -> Iterator[Option]:
    throughput = found.throughputs.get("learn")
    if throughput is None or throughput.bound_by != "the device":
        return
    if model.fleet.device == "cpu":
        what = "a GPU (resources.device=cuda): training on CPUs takes most of the time"
        yield Option(found.seconds - found.stages["learn"].work_s, what)
        return
    workers, actors = model.config.learning.workers, model.config.embedding.max_actors
    config = _changed(model.config, "learning", workers=2 * workers)
    config = _changed(config, "embedding", max_actors=2 * actors)
    seconds = replace(model, config=config, fleet=model.fleet.with_gpus(2)).forecast().seconds
    what = f"learning.workers={2 * workers} and embedding.max_actors={2 * actors} on twice the GPUs"
    yield Option(seconds, f"{what}: {_then(seconds)}; a step then has twice the clips")
    step = max((steps[0] for steps in model.measured.steps.values()), key=lambda step: step.half)
    if step.half > _SLOWER:
        what = "a larger learning.batch_size: the device is not full. Of half a batch a clip takes"
        yield Option(found.seconds / step.half, f"{what} {step.half:.1f} times as long")


def _embedding(model: RunModel, found: Forecast) -> Iterator[Option]:
    if not model.config.embedding.from_training:
        config = _changed(model.config, "embedding", from_training=True)
        seconds = replace(model, config=config).forecast().seconds
        what = f"embedding.from_training=true: {_then(seconds)}, with features of augmented clips"
        yield Option(seconds, what)


def _store_room(model: RunModel, needs: Needs) -> Iterator[str]:
    """Nodes whose object stores are smaller than what they must hold."""
    fleet = model.fleet
    for kind in fleet.kinds:
        decodes = needs.batches if kind in fleet.decoders else 0
        trains = needs.device if kind in fleet.of(GPU) else 0
        asked = decodes + trains + (needs.driver if kind.role == "head" else 0)
        if asked > kind.store_bytes > 0:
            yield (
                f"object stores of {asked / 1e9:.1f} GB on {kind.role} nodes: they have "
                f"{kind.store_bytes / 1e9:.1f} and would spill to disk "
                "(resources.object_store_mb, or nodes with more memory)"
            )


def _then(seconds: float) -> str:
    return f"{duration(seconds)} in all"


def _changed(config: Config, section: str, **values: Any) -> Config:
    changed = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: changed})
