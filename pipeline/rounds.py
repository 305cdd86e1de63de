"""The whole method, top to bottom: embed → cluster → learn → commit, round after round.

    round 0   random encoders, BatchNorm warmed; or weights to begin with
    round r   for each update of the method:
                  embed     every modality the update's clusterings need, if its encoder changed
                  cluster   features → pseudo-labels, published once to every node
                  learn     the update's encoders predict the pseudo-labels
              commit        the round's directory, then the pointer

The driver is a state machine over durable storage. Killed at any instant, the same command goes
on from the last finished stage. An unfinished stage is done again from what it wrote.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from pipeline import methods
from pipeline.clips.fill import publish_clips
from pipeline.clips.table import ClipTable
from pipeline.clustering import measures
from pipeline.config import Config
from pipeline.embedding.warming import write_random_encoders
from pipeline.lease import hold
from pipeline.manifest import NAME
from pipeline.methods import MODALITIES, Method
from pipeline.recovery import unsound
from pipeline.run import Round, Run, check
from pipeline.runtime.standby import NextStages
from pipeline.stages import Stages
from pipeline.starts import check_starts, start_with, starts_of
from pipeline.telemetry import metrics
from pipeline.telemetry.attempts import AttemptRecord
from pipeline.telemetry.console import duration, say
from pipeline.telemetry.events import EventLog
from pipeline.telemetry.trackers import Trackers

AtEnd = Callable[[Run, EventLog], None]


def pretrain(config: Config, at_end: AtEnd | None = None) -> Run:
    """Run the method to ``config.rounds`` rounds, from wherever the run directory stands.

    `at_end` may add to the run's events before they are closed.

    Raises:
        UserError: the settings do not fit the run, the clips or each other.
    """
    place = Run.place(config)
    with hold(place / "_LEASE", f"the run {place}", on_lost=_stop), AttemptRecord(place):
        pretraining = Pretraining.opened(config, methods.get(config.method))
        run = pretraining.run
        with pretraining.workers:
            last = pretraining.taken_up()
            while last < config.rounds and not pretraining.settled(run.round(last)):
                last += 1
                pretraining.run_round(run.round(last))
        pretraining.label(run.round(last))
        if at_end is not None:
            at_end(run, pretraining.events)
        pretraining.events.close()
    say(f"{config.method}: {last} rounds done, encoders in {run.encoders}")
    return run


def _stop() -> None:
    """Another driver has taken over: end as if asked to, wherever this one is."""
    say("another process has taken over this run; this one stops")
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class Pretraining(Stages):
    """Rounds of a method over one run directory."""

    @classmethod
    def opened(cls, config: Config, method: Method) -> Self:
        """The run directory of ``config.run``, taken up or begun, with its clips published.

        Raises:
            UserError: the settings do not fit the run, the clips or each other.
        """
        clips = ClipTable.open(Run.place(config) / "clips")
        method = check(config, method, clips)
        run, started = Run.open(config), time.monotonic()
        published = publish_clips(clips, run.location, config)
        seconds = round(time.monotonic() - started, 2)
        events = EventLog(run.location, Trackers(run.location, config))
        if config.store.enabled:
            events.add("store", seconds=seconds)
        return cls(run, method, published, events)

    def taken_up(self) -> int:
        """The last finished round, once all that are finished stand; makes round 0 where needed."""
        last, named = self.run.last_round(), self.run.pointer()
        if named is not None and not self.run.round(named).is_done:
            gone = self.run.round(named).location / NAME
            say(f"LATEST names round {named}, but {gone} is gone: it is done again")
        if last is None:
            self.begin()
            return 0
        check_starts(self.run.config, starts_of(self.run.round(0).location))
        if last < self.run.config.rounds:
            say(f"{self.run.location} goes on after round {last}")
        for number in range(last + 1):
            if why := unsound(self.run, number):
                say(f"round {number} is done again where it must be: {why}")
                self.events.add("redo", number=number, why=why)
                self.run_round(self.run.round(number)) if number else self.begin()
        return last

    def begin(self) -> None:
        """Round 0: random encoders, their BatchNorm statistics set by a few batches; or weights."""
        started, zero, config = time.monotonic(), self.run.round(0), self.run.config
        before = starts_of(zero.location)  # where it is made again
        write_random_encoders(self.clips, config, zero.encoders)
        starts = start_with(config, zero.encoders, before)
        self.run.commit(zero, {"round": 0}, settings=config.outcome(), starts=starts)
        said = dict.fromkeys(MODALITIES, "random weights")
        said |= {m: start["source"] for m, start in starts.items()}
        names = "random encoders" if not starts else ", ".join(f"{m} {s}" for m, s in said.items())
        say(f"round 0 · {names} in {duration(time.monotonic() - started)}")
        if starts and config.clustering.first == "raw":
            say("warning: clustering.first=raw: the first clusters are not those of these weights")

    def run_round(self, this: Round) -> None:
        """One round, from whatever stages of it an earlier attempt finished."""
        started = time.monotonic()
        metrics.level("xdc_round", this.number)
        before = self.run.round(this.number - 1)
        now = self.run.encoders_after(before)
        first, learned = now.digest, []
        learned_from: dict[str, list[Any]] = {}
        for number, update in enumerate(self.method.updates):
            with NextStages(self.run.config, len(self.clips)) as ahead:
                labels = self.cluster_all(this, update.clusterings, now, ahead)
            seals = self.seals_of(labels)
            made_of = {"before": now.digest, "labels": seals}
            learned.append(self.learn(this, number, labels, now, made_of))
            for clustering in labels.values():
                clustering.close()
            learned_from |= seals
            weights = this.update(number) / "encoders.safetensors"
            now = now.updated(update.encoders, weights, this.number)
        this.encoders.write_bytes(now.weights.read_bytes())
        seconds, settings = round(time.monotonic() - started, 2), self.run.config.learning.outcome()
        self.run.commit(
            this,
            {"round": this.number, "updates": learned, "seconds": seconds, "learning": settings},
            before=first,
            labels=learned_from,
            updates=len(self.method.updates),
        )
        self.events.add("round", round=this.number, seconds=seconds)
        if not self.run.config.embedding.keep:
            before.delete_features()

    def label(self, last: Round) -> None:
        """Features and pseudo-labels of the final encoders: for evaluation and the report."""
        now = self.run.encoders_after(last)
        with NextStages(self.run.config, len(self.clips), learning=False) as ahead:
            self.embed(last, self.method.modalities, now, ahead)
            for clustering in self.cluster_all(last, self.method.clusterings, now, ahead).values():
                clustering.close()

    def settled(self, last: Round) -> bool:
        """Whether the last round changed the clusters so little that another one is not needed."""
        config = self.run.config
        if not config.settled_nmi or last.number < config.min_rounds:
            return False
        self.label(last)  # the next round takes most of it up
        found = {}
        for name in self.method.clusterings:
            old, new = (self.labels_of(name, number) for number in (last.number - 1, last.number))
            if old is None or new is None:
                return False
            found[name] = measures.normalized_mutual_information(old, new)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        settled = min(found.values()) >= config.settled_nmi
        verdict = f"settled ({config.settled_nmi} is enough)" if settled else "goes on"
        say(f"round {last.number} · NMI of the clusters with the last round's: {shown} · {verdict}")
        return settled
