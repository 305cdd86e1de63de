"""The whole method, top to bottom: embed → cluster → learn → commit, round after round.

    round 0   random encoders, BatchNorm warmed
    round r   for each update of the method:
                  embed     every modality the update's clusterings need, if its encoder changed
                  cluster   features → pseudo-labels, published once to every node
                  learn     the update's encoders predict the pseudo-labels
              commit        the round's directory, then the pointer

The driver is a state machine over durable storage. Killed at any instant, the same command goes
on from the last finished stage. An unfinished stage is done again from what it wrote.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import ray

from pipeline import methods
from pipeline.clips.fill import publish_clips
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.clustering import Clustering, ClusteringTask, cluster, measures, read_labels
from pipeline.clustering.summary import show_progress, summarize, warn_of_collapse
from pipeline.config import Config
from pipeline.embedding.embed import EmbeddingTask, embed
from pipeline.embedding.warming import write_random_encoders
from pipeline.learning.learn import learn, metrics_of
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.methods import Method
from pipeline.run import Encoders, Round, Run, check
from pipeline.runtime.standby import NextStages
from pipeline.telemetry import metrics
from pipeline.telemetry.console import duration, say
from pipeline.telemetry.events import EventLog
from pipeline.telemetry.trackers import Trackers


def pretrain(config: Config) -> Run:
    """Run the method to ``config.rounds`` rounds, from wherever the run directory stands.

    Raises:
        UserError: the settings do not fit the run, the clips or each other.
    """
    pretraining = Pretraining.opened(config, methods.get(config.method))
    run = pretraining.run
    last = run.last_round()
    if last is None:
        last = pretraining.begin()
    elif last < config.rounds:
        say(f"{run.location} goes on after round {last}")
    while last < config.rounds and not pretraining.settled(run.round(last)):
        last += 1
        pretraining.run_round(run.round(last))
    pretraining.label(run.round(last))
    pretraining.events.close()
    say(f"{config.method}: {last} rounds done, encoders in {run.encoders}")
    return run


@dataclass(frozen=True)
class Pretraining:
    """The stages of a round, each resumable by itself, over one run directory."""

    run: Run
    method: Method
    clips: PublishedClips
    events: EventLog

    @classmethod
    def opened(cls, config: Config, method: Method) -> Self:
        """The run directory of ``config.run``, taken up or begun, with its clips published.

        Raises:
            UserError: the settings do not fit the run, the clips or each other.
        """
        clips = ClipTable.open(Run.place(config) / "clips")
        method = check(config, method, clips)
        run = Run.open(config)
        published = publish_clips(clips, run.location, config)
        return cls(run, method, published, EventLog(run.location, Trackers(run.location, config)))

    def begin(self) -> int:
        """Round 0: random encoders, their BatchNorm statistics set by a few batches."""
        started, zero = time.monotonic(), self.run.round(0)
        write_random_encoders(self.clips, self.run.config, zero.encoders)
        self.run.commit(zero, {"round": 0})
        say(f"round 0 · random encoders in {duration(time.monotonic() - started)}")
        return 0

    def run_round(self, this: Round) -> None:
        """One round, from whatever stages of it an earlier attempt finished."""
        started = time.monotonic()
        metrics.level("xdc_round", this.number)
        before = self.run.round(this.number - 1)
        now = self.run.encoders_after(before)
        learned = []
        for number, update in enumerate(self.method.updates):
            with NextStages(self.run.config, len(self.clips)) as ahead:
                self.embed(this, self.method.modalities_of(update), now, ahead)
                ahead.clustering_begins()
                labels = {name: self.cluster(this, name, now) for name in update.clusterings}
            learned.append(self.learn(this, number, labels, now))
            for clustering in labels.values():
                clustering.close()
            weights = this.update(number) / "encoders.safetensors"
            now = now.updated(update.encoders, weights, this.number)
        this.encoders.write_bytes(now.weights.read_bytes())
        seconds = round(time.monotonic() - started, 2)
        self.run.commit(this, {"round": this.number, "updates": learned, "seconds": seconds})
        self.events.add("round", round=this.number, seconds=seconds)
        if not self.run.config.embedding.keep:
            before.delete_features()

    def label(self, last: Round) -> None:
        """Features and pseudo-labels of the final encoders: for evaluation and the report."""
        now = self.run.encoders_after(last)
        with NextStages(self.run.config, len(self.clips), learning=False) as ahead:
            self.embed(last, self.method.modalities, now, ahead)
        for name in self.method.clusterings:
            self.cluster(last, name, now).close()

    def settled(self, last: Round) -> bool:
        """Whether the last round changed the clusters so little that another one is not needed."""
        config = self.run.config
        if not config.settled_nmi or last.number < config.min_rounds:
            return False
        self.label(last)  # the next round takes most of it up
        found = {}
        for name in self.method.clusterings:
            old, new = (self._labels(name, number) for number in (last.number - 1, last.number))
            if old is None or new is None:
                return False
            found[name] = measures.normalized_mutual_information(old, new)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        settled = min(found.values()) >= config.settled_nmi
        verdict = f"settled ({config.settled_nmi} is enough)" if settled else "goes on"
        say(f"round {last.number} · NMI of the clusters with the last round's: {shown} · {verdict}")
        return settled

    # -- stages --------------------------------------------------------------------------------

    def embed(
        self, this: Round, modalities: Sequence[str], now: Encoders, ahead: NextStages | None = None
    ) -> None:
        """Features of the encoders as they are now, for the modalities that lack them."""
        lacking = [m for m in modalities if not (now.features(m) / "_DONE").exists()]
        raw = {m: now.features(m) for m in lacking if now.is_raw(m)}
        encoded = {m: now.features(m) for m in lacking if m not in raw}
        for folders, weights in ((raw, None), (encoded, now.weights)):
            if folders:
                title = self._title(this, f"embed {' and '.join(folders)}")
                where = (self.clips, weights, folders, this.rejects)
                counts = embed(EmbeddingTask(*where, self.run.config, title, ahead))
                self.events.add("embed", round=this.number, modalities=list(folders), **counts)

    def cluster(self, this: Round, name: str, now: Encoders) -> Clustering:
        """Pseudo-labels of one clustering of the newest features, published to every node."""
        config, started = self.run.config, time.monotonic()
        modalities = self.method.clusterings[name]
        version = now.version(modalities)
        task = ClusteringTask(
            features=tuple(now.features(m) for m in modalities),
            num_clips=len(self.clips),
            clips=self.clips.table.location,
            config=config.clustering,
            seed=_seed(config.seed, version, name),
            out=self.run.round(version).clusters(name),
        )
        finished = (task.out / "clustering.json").exists()
        clustering = cluster(
            task, resources=config.resources, on_progress=partial(show_progress, name)
        )
        if not finished:
            found = self._summary(name, version, clustering, now)
            self.events.add("cluster", round=version, clustering=name, **found)
            shown = " · ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in found.items())
            title = self._title(this, f"cluster {name}")
            say(f"{title} · {duration(time.monotonic() - started)} · {shown}")
            warn_of_collapse(name, clustering)
        return clustering

    def learn(
        self, this: Round, number: int, labels: dict[str, Clustering], now: Encoders
    ) -> dict[str, Any]:
        """Train the update's encoders, unless an earlier attempt did."""
        out, update = this.update(number), self.method.updates[number]
        if (finished := metrics_of(out)) is not None:
            return finished
        title = self._title(this, f"learn {' and '.join(update.encoders)}")
        keeps = self.run.config.embedding.from_training
        learned = learn(
            LearningTask(
                clips=self.clips,
                heads=update.heads,
                labels={name: PublishedLabels(c.labels, c.k) for name, c in labels.items()},
                weights=now.weights,
                out=out,
                rejects=this.rejects,
                config=self.run.config,
                key=(self.run.config.seed, this.number, number),
                title=title,
                needs_all_labels=self.method.needs_all_labels(update),
                bank={m: this.features(m) for m in update.encoders} if keeps else None,
            )
        )
        last, wait = learned["epochs"][-1], learned["wait_share"]
        self.events.add("learn", round=this.number, update=number, **last, wait=wait)
        say(f"{title} · " + " · ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in last.items()))
        return learned

    # -- shown and logged ----------------------------------------------------------------------

    def _title(self, this: Round, stage: str) -> str:
        return f"round {this.number}/{self.run.config.rounds} · {stage}"

    def _labels(self, name: str, version: int) -> np.ndarray | None:
        """int32 [N] of a clustering of the encoders of round `version`; None: there is none."""
        out = self.run.round(version).clusters(name)
        done = version >= 0 and (out / "clustering.json").exists()
        return read_labels(out, len(self.clips)) if done else None

    def _summary(
        self, name: str, version: int, clustering: Clustering, now: Encoders
    ) -> dict[str, float]:
        found = {
            other: self._labels(other, now.version(modalities))
            for other, modalities in self.method.clusterings.items()
            if other != name
        }
        return summarize(
            clustering,
            ray.get(clustering.labels[0]),
            before=self._labels(name, version - 1),
            files=self.clips.table.files(),
            others={other: labels for other, labels in found.items() if labels is not None},
            first=version == 0,
        )


def _seed(seed: int, version: int, name: str) -> int:
    return int(np.random.SeedSequence((seed, version, *name.encode())).generate_state(1)[0])
