"""The model of a run: from what the probes measured to hours by stage.

A stage takes its start each time, and its clips at their throughput. What a run may save is not
counted on: all rounds, all epochs, all iterations of k-means are taken to be done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.config import Config
from pipeline.embedding.executors import ACTORS_EACH
from pipeline.methods import Method
from pipeline.planning.counts import ClipCounts, UpdateSteps
from pipeline.planning.decode_probe import decodes_on_gpu
from pipeline.planning.fleet import Fleet
from pipeline.planning.measured import Decoding, Measured
from pipeline.planning.stage_probe import shards_of
from pipeline.planning.throughput import Throughput
from pipeline.planning.timeline import (
    STAGES,
    ClipPass,
    Clustered,
    LabelPass,
    Timeline,
    UpdatePass,
)

# Beside its stages a round commits, seals and compares clusters: 0.6 to 1.1 s of the demo's rounds
# on two cores (benchmarks/plan.json).
ROUND_S = 0.8


@dataclass
class StageTime:
    """All of one stage in a run."""

    times: int = 0
    clips: int = 0
    start_s: float = 0.0
    work_s: float = 0.0
    bound_by: str = ""

    @property
    def seconds(self) -> float:
        return self.start_s + self.work_s

    def add(self, start_s: float, work_s: float, clips: int = 0, bound_by: str = "") -> float:
        """One more; returns its seconds."""
        self.times, self.clips = self.times + 1, self.clips + clips
        self.start_s, self.work_s = self.start_s + start_s, self.work_s + work_s
        self.bound_by = bound_by or self.bound_by
        return start_s + work_s


@dataclass
class Forecast:
    """Of a run: its stages, and what each piece of it takes in their order."""

    stages: dict[str, StageTime] = field(default_factory=lambda: {s: StageTime() for s in STAGES})
    order: list[tuple[str, float]] = field(default_factory=list)  # (stage, seconds)
    throughputs: dict[str, Throughput] = field(default_factory=dict)  # stage → of its first piece

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages.values())

    def add(
        self,
        stage: str,
        start_s: float,
        work_s: float,
        clips: int = 0,
        throughput: Throughput | None = None,
    ) -> None:
        bound_by = throughput.bound_by if throughput else ""
        self.order.append((stage, self.stages[stage].add(start_s, work_s, clips, bound_by)))
        if throughput:
            self.throughputs.setdefault(stage, throughput)


@dataclass(frozen=True)
class RunModel:
    """A run that is to be forecast, and what is known of its pieces."""

    config: Config
    method: Method
    fleet: Fleet
    measured: Measured
    counts: ClipCounts
    updates: Mapping[int, UpdateSteps]
    last: int | None  # the last finished round
    clustered: Clustered  # what is there of its encoders
    to_store: int  # clips that the clip store lacks

    def forecast(self) -> Forecast:
        """Of all that is left to do."""
        found, measured = Forecast(), self.measured
        found.add("rest", measured.job_s, 0.0)
        if self.config.store.enabled:
            found.add("store", *self._fill(), self.to_store)
        if self.last is None:
            found.add("rest", measured.encoders_s, self._warming())
        timeline = Timeline(self.config, self.method, self.last or 0, set(self.clustered))
        for piece in timeline.pieces():
            match piece:
                case ClipPass():
                    clips, throughput = self._pass_clips(piece), self.embed_throughput(piece)
                    work_s = clips * throughput.seconds
                    ready = found.stages["embed"].times > 0  # encoders' processes stay
                    start_s = measured.embed_again_s if ready else measured.embed_start_s
                    found.add("embed", start_s, work_s, clips, throughput)
                case LabelPass():
                    found.add("cluster", *self._clustering(piece))
                case UpdatePass():
                    self._update(piece, found)
        return found

    @property
    def rounds(self) -> int:
        """That are still to be done."""
        return max(self.config.rounds - (self.last or 0), 0)

    @property
    def decoding(self) -> Decoding:
        """Of clips as the run will read them."""
        if self.config.store.enabled:
            assert self.measured.store is not None
            return self.measured.store.decoding
        return self.measured.decoding

    def embed_throughput(self, piece: ClipPass) -> Throughput:
        settings, fleet = self.config.embedding, self.fleet
        devices = fleet.gpus if fleet.device == "cuda" else fleet.trainers
        actors = max(min(settings.max_actors, devices), settings.min_actors)
        decode_s = self.decoding[piece.modalities, False].core_s
        device_s = self.measured.encoding[plain(piece)].clip_s
        throughput = Throughput.of(
            decode_s, device_s, self._cores(0.51 * actors), actors, fleet.shares_cores
        )
        return throughput.fed("embed", math.ceil(actors / ACTORS_EACH))

    def learn_throughput(self, number: int, held_out: bool = False) -> Throughput:
        learning = self.config.learning
        modalities = self.method.updates[number].encoders
        decode_s = self.decoding[modalities, True].core_s
        device_s = self.measured.steps[number][held_out].clip_s
        cores = self._cores(learning.workers * learning.cpus_per_worker)
        shared = self.fleet.shares_cores
        throughput = Throughput.of(decode_s, device_s, cores, learning.workers, shared)
        return throughput.fed("learn", learning.workers)

    def _cores(self, held: float) -> float:
        """What decodes while so many CPUs are held: GPUs, where these do."""
        fleet = self.fleet
        if self.decodes_on_gpu:
            return max(fleet.gpus - held, 0.1)
        beside = not fleet.roles and not fleet.shares_cores
        return max(fleet.decode_cores - (held if beside else 0.0), 0.5)

    @property
    def decodes_on_gpu(self) -> bool:
        return decodes_on_gpu(self.config)

    def _fill(self) -> tuple[float, float]:
        """Start and work of the store's first fill; a full one is only read."""
        store = self.measured.store
        assert store is not None
        if not self.to_store:
            return 0.0, 0.0
        return store.start_s, self.to_store * store.fill.core_s / self._cores(0.0)

    def _warming(self) -> float:
        """Clips that one task decodes and passes through both encoders, one after the other."""
        config = self.config
        warm = config.encoders.warm_batches * config.embedding.batch_size
        whole = ClipPass(self.method.modalities, False, False)
        each_s = self.decoding[whole.modalities, False].core_s
        each_s += self.measured.encoding[whole].clip_s
        return min(warm, self.counts.chosen) * each_s

    def _pass_clips(self, piece: ClipPass) -> int:
        """Those of a pass: after a training that kept features, those that it did not see."""
        clips = self.counts.with_any(piece.modalities)
        if not piece.kept:
            return clips
        of_it = [
            number
            for number, update in enumerate(self.method.updates)
            if {*piece.modalities} & {*update.encoders}
        ]
        steps = self.updates[of_it[-1]]
        seen = steps.drawn / max(steps.labelled, 1)
        natural = self.config.learning.sampling == "natural"
        unseen = max(1 - seen, 0.0) if natural else math.exp(-seen)
        return max(clips - round(steps.labelled * (1 - unseen)), 0)

    def _clustering(self, piece: LabelPass) -> tuple[float, float]:
        """Start and work."""
        settings, probe = self.config.clustering, self.measured.kmeans
        rows = self.counts.with_all(piece.modalities)
        each = rows / probe.rows * probe.shards / shards_of(rows, settings)
        seeds = probe.seed_s * (1.0 if settings.init == "random" else each)
        tries = settings.restarts * (seeds + settings.iterations * probe.iteration_s * each)
        return probe.start_s, tries + (probe.load_s + probe.label_s) * each

    def _update(self, piece: UpdatePass, found: Forecast) -> None:
        steps, throughput = self.updates[piece.number], self.learn_throughput(piece.number)
        held_s = steps.held_clips * self.learn_throughput(piece.number, held_out=True).seconds
        work_s = steps.drawn * throughput.seconds + held_s
        ready = found.stages["learn"].times > 0  # workers stay from one update to the next
        start_s = self.measured.learn_again_s if ready else self.measured.learn_start_s
        found.add("learn", start_s, work_s, steps.drawn, throughput)
        if piece.number + 1 == len(self.method.updates):
            found.add("rest", 0.0, ROUND_S)


def plain(piece: ClipPass) -> ClipPass:
    """The same for what it measures: a kept pass has other clips, not others' throughput."""
    return ClipPass(piece.modalities, piece.raw, False)
