"""One trial: encoders trained in one way, then examined on held-out cuts.

OUT/<world>/trials/<name>-<seed>/           the run
OUT/<world>/trials/<name>-<seed>/exam/      features of labelled cuts, by round, or ``tuned``
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import methods, settings
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable
from pipeline.config import Config
from pipeline.evaluation.supervision import Supervision, supervised
from pipeline.methods import METHODS, MODALITIES
from pipeline.reproduction import probing
from pipeline.reproduction.results import TrialResult
from pipeline.reproduction.twins import pretrain_twins
from pipeline.reproduction.worlds import HELD_OUT, TRAIN, World
from pipeline.rounds import Pretraining, pretrain
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.machine import about

SUPERVISED, TUNED, TWINS = "supervised", "tuned", "twins"


@dataclass(frozen=True)
class Trial:
    """One way of training encoders.

    Its `method` is one of `METHODS`; ``supervised:<column>[:<modality>]``: that column of the cuts
    as labels, for as many epochs as all rounds of the others; ``tuned:<column>``: the encoders of
    `base`, fine-tuned on that column for a round's epochs; or ``twins:<modality>``: see twins.py.
    """

    name: str  # in results and of its folder
    method: str
    cuts: str = TRAIN  # the list that is learned from (`worlds.LISTS`, `worlds.DILUTED`)
    settings: tuple[str, ...] = ()  # those that differ from the world's
    every_round: bool = False  # examine all rounds, not only the last
    short: bool = False  # may end early, with the preset's ``short`` settings
    base: Trial | None = None
    start: Trial | None = None  # a new run begins with the encoders of this one
    grows: Trial | None = None  # the cuts are added to a copy of this one's run, which goes on
    as_many_epochs: bool = False  # of another list than all, instead of as many steps

    @property
    def kind(self) -> str:
        return self.method.partition(":")[0]

    @property
    def detail(self) -> str:
        return self.method.split(":")[1]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Whose encoders are trained."""
        return tuple(m for m in MODALITIES if m in self.method.split(":")) or MODALITIES

    def fits(self, world: World) -> bool:
        """Whether the world has the labels and the clips that the trial needs."""
        if not world.has(self.cuts):
            return False
        return self.kind not in (SUPERVISED, TUNED) or self.detail in world.labels


@dataclass(frozen=True)
class Preset:
    """Settings for all trials of a study.

    `short` ones are for trials compared with the first round of others: a third of the cost.
    """

    name: str
    settings: tuple[str, ...] = ()  # of all trials, after the world's own
    short: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()  # keys of what is tested by default
    seeds: tuple[int, ...] = (0,)  # of every trial
    generated: Mapping[str, Any] = field(default_factory=dict)  # arguments of `worlds.generated`
    added: tuple[str, ...] = ()  # settings of a caller; results name them


def run_trial(trial: Trial, world: World, seed: int, preset: Preset, out: Location) -> TrialResult:
    """Train and examine, from wherever an earlier attempt stopped."""
    started = time.monotonic()
    config = _config_of(trial, world, seed, preset, out)
    for before in filter(None, (trial.start, trial.grows)):  # from wherever an attempt stopped
        stored = world.stored(before.cuts, out, _config_of(before, world, seed, preset, out))
        train(before, world.list_of(before.cuts, out), stored)
        if before is trial.grows:
            _copy(Run.place(stored), Run.place(config))
    cuts = world.list_of(trial.cuts, out)
    # A run that grew has its clips in another order than any list.
    list_name = f"{trial.grows.cuts}-and-{trial.cuts}" if trial.grows else trial.cuts
    run, weights = train(trial, cuts, world.stored(list_name, out, config))
    lists = {name: world.clips_of(name, out, config) for name in (TRAIN, HELD_OUT)}
    last = max(weights)
    rounds = []
    for number in weights if trial.every_round else (last,):
        rounds.append(_examined(trial, run, number, weights, lists, config))
        probes = " · ".join(
            f"{m} {by_split['test']['accuracy']:.3f}" for m, by_split in rounds[-1]["probe"].items()
        )
        say(f"{world.name} · {trial.name} · seed {seed} · round {number} · {probes}")
    return TrialResult(
        preset=preset.name,
        trial=trial.name,
        seed=seed,
        method=trial.method,
        cuts=trial.cuts,
        world=world.name,
        clips=len(ClipTable.open(run.clips)),
        seconds=round(time.monotonic() - started),
        about=about("torch", "ray", "av"),
        rounds=rounds,
        base=trial.base.name if trial.base else None,
        overrides=overrides_of(trial, preset),
        cost=_cost(run),
    )


def overrides_of(trial: Trial, preset: Preset) -> tuple[str, ...]:
    """Settings of a trial after the world's and the preset's own; the last of a key holds."""
    short = preset.short if trial.short else ()
    return (*preset.added, *short, *(trial.base or trial).settings)


def _config_of(trial: Trial, world: World, seed: int, preset: Preset, out: Location) -> Config:
    trained_as = trial.base or trial
    folder = out / world.name / "trials"
    own = [f"run={(folder / f'{trained_as.name}-{seed}').full_uri}", f"seed={seed}"]
    if trained_as.method in METHODS:
        own.append(f"method={trained_as.method}")
    if trial.start:
        begins = (folder / f"{trial.start.name}-{seed}").full_uri
        own += [f"encoders.{m}.start={begins}" for m in MODALITIES]
    overrides = overrides_of(trial, preset)
    config = settings.load([*world.settings, *preset.settings, *overrides, *own])
    if trial.cuts == TRAIN or trial.as_many_epochs:
        return config
    # Epochs as long as on all training cuts, to compare lists at equal compute.
    clips = len(world.list_of(TRAIN, out).read_table())
    size = {"epoch_clips": round(clips * (1 - config.learning.held_out))}
    learning = config.learning.model_copy(update=size)
    return config.model_copy(update={"learning": learning})


def _copy(run: Location, to: Location) -> None:
    """A run that is finished, unless its copy is there already; its last file is written last."""
    if (to / "LATEST").exists():
        return
    files = [info.path for info in run.children(recursive=True) if info.is_file]
    for path in sorted(files, key=lambda path: path.endswith("/LATEST")):
        name = path.removeprefix(run.path).lstrip("/")
        if not name.endswith("_LEASE"):
            (to / name).write_bytes((run / name).read_bytes())


def _cost(run: Run) -> dict[str, dict[str, float]]:
    """Seconds of each round (its last attempt) and of embedding in it, from the run's events."""
    place = run.location / "events.jsonl"
    lines = place.read_bytes().decode().splitlines() if place.exists() else []
    found: dict[str, dict[str, float]] = {"round": {}, "embed": {}}
    for event in map(json.loads, lines):
        if event["event"] not in found:
            continue
        seconds, number = found[event["event"]], str(event["round"])
        if event["event"] == "round" or number not in found["round"]:  # later: evaluation's
            seconds[number] = seconds.get(number, 0.0) + event["seconds"]
    return found


def train(trial: Trial, cuts: Location, config: Config) -> tuple[Run, dict[int, Location]]:
    """The trial's encoders, by the same functions that the jobs call: round → safetensors."""
    if trial.kind != TWINS:
        index(cuts.full_uri, Run.place(config), config)
    if trial.kind == SUPERVISED:
        begun = Pretraining.opened(config, methods.get(config.method))
        if begun.run.last_round() is None:
            begun.begin()
        labels = Supervision(cuts.full_uri, trial.detail)
        return begun.run, {0: supervised(begun.run, labels, "test", trial.modalities)}
    run = pretrain_twins(cuts, config, trial.detail) if trial.kind == TWINS else pretrain(config)
    if trial.kind == TUNED:
        labels = Supervision(cuts.full_uri, trial.detail)
        return run, {0: supervised(run, labels, "test", start=run.encoders)}
    return run, {n: run.round(n).encoders for n in range(run.config.rounds + 1)}


def _examined(
    trial: Trial,
    run: Run,
    number: int,
    weights: Mapping[int, Location],
    lists: probing.Lists,
    config: Config,
) -> dict[str, Any]:
    """Probes of one round; of rounds that clustered also the signals and what the clusters hold."""
    this = run.round(number)
    clips, _ = lists[TRAIN]
    clustered = trial.method in METHODS and trial.cuts == TRAIN
    title = f"{trial.name} · seed {config.seed} · round {number}"
    place = run.location / "exam" / (TUNED if trial.base else f"{number:04d}")
    folders = {name: {m: place / name / m for m in trial.modalities} for name in lists}
    if clustered:
        folders[TRAIN] = {m: this.features(m) for m in trial.modalities}
    rejects = place / "rejects"
    features = probing.features_of(lists, weights[number], folders, rejects, config, title)
    labels = clips.column("label").combine_chunks().dictionary_encode()
    numbers, names = labels.indices.to_numpy().astype(np.int64), labels.dictionary.to_pylist()
    found: dict[str, Any] = {"round": number, "probe": {}, "contents": {}}
    assigned = {}
    for modality in trial.modalities:
        found["probe"][modality] = probing.probed(lists, features[modality], config.seed)
        if clustered:
            assigned[modality] = probing.clusters_of(this, modality, clips, config)
            found["contents"][modality] = probing.contents(
                assigned[modality], numbers, names, examples=number == max(weights)
            )
    return found | {"signals": probing.signals(this, assigned, clips)}
