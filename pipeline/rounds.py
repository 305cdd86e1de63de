"""The whole method, top to bottom: embed → cluster → learn → commit, round after round.

    round 0   random encoders, BatchNorm warmed
    round r   for each update of the method:
                  embed     every modality the update's clusterings need, if its encoder changed
                  cluster   features → pseudo-labels, published once to every node
                  learn     the update's encoders predict the pseudo-labels
              commit        the round's directory, then the pointer

The driver is a state machine over durable storage: killed at any instant, the same command goes
on from the last finished stage. An unfinished stage is done again from its start.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import ray

from pipeline import methods
from pipeline.clips.store import publish
from pipeline.clips.stream import Order
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.clustering import (
    Clustering,
    ClusteringTask,
    KMeansProgress,
    cluster,
    measures,
    read_labels,
)
from pipeline.clustering.agreement import agreement
from pipeline.config import Config
from pipeline.embedding.embed import embed, warm_batchnorm
from pipeline.errors import UserError
from pipeline.learning.learn import learn
from pipeline.methods import MODALITIES, Method, Update
from pipeline.run import Round, Run
from pipeline.runtime.devices import choose_device
from pipeline.runtime.placement import decoding
from pipeline.runtime.standby import Standby, for_clustering, for_learning
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.events import EventLog
from pipeline.telemetry.progress import duration, say
from pipeline.telemetry.trackers import Trackers


def pretrain(config: Config) -> Run:
    """Run the method to ``config.rounds`` rounds, from wherever the run directory stands.

    Raises:
        UserError: the settings do not fit the run, the clips or each other.
    """
    loop = RoundLoop.opened(config, methods.get(config.method))
    run = loop.run
    last = run.last_round()
    if last is None:
        last = loop.begin()
    elif last < config.rounds:
        say(f"{run.location} goes on after round {last}")
    while last < config.rounds and not loop.settled(run.round(last)):
        last += 1
        loop.play(run.round(last))
    loop.label_last(run.round(last))
    loop.events.close()
    say(f"{config.method}: {last} rounds done, encoders in {run.encoders}")
    return run


@dataclass
class RoundLoop:
    """Plays rounds; knows which round's encoders, features and clusters are the newest."""

    run: Run
    method: Method
    clips: ClipTable
    published: PublishedClips
    events: EventLog
    # Round in which each encoder was last trained: its features and clusters lie there.
    trained: dict[str, int] = field(default_factory=dict)

    @classmethod
    def opened(cls, config: Config, method: Method) -> Self:
        """The run directory of ``config.run``, taken up or begun, with its clips published.

        Raises:
            UserError: the settings do not fit the run, the clips or each other.
        """
        clips = ClipTable.open(Run.place(config) / "clips")
        check(config, method, clips)
        run = Run.open(config)
        published = publish(clips, run.location, config)
        events = EventLog(run.location, Trackers(run.location, config))
        return cls(run, method, clips, published, events)

    def begin(self) -> int:
        """Round 0: random encoders, their BatchNorm statistics set by a few batches."""
        config, zero = self.run.config, self.run.round(0)
        started = time.monotonic()
        rng = np.random.default_rng((config.seed, 0))
        wanted = config.encoders.warm_batches * config.embedding.batch_size
        chosen = rng.choice(len(self.clips), size=min(wanted, len(self.clips)), replace=False)
        order = Order(len(chosen), config.embedding.batch_size, [ray.put(np.sort(chosen))])
        warm = warm_batchnorm.options(**decoding(config.resources, config.clips.decoder))
        ray.get(warm.remote(zero.encoders, self.published, order, config))
        self.run.commit(zero, {"round": 0})
        say(f"round 0 · random encoders in {duration(time.monotonic() - started)}")
        return 0

    def play(self, this: Round) -> None:
        """One round, from whatever stages of it an earlier attempt finished."""
        started = time.monotonic()
        metrics.level("xdc_round", this.number)
        before = self.run.round(this.number - 1)
        self.trained = dict.fromkeys(MODALITIES, before.number)
        weights = before.encoders
        config, device = self.run.config, choose_device(self.run.config.resources)
        learned = []
        for number, update in enumerate(self.method.updates):
            shards = for_clustering(config, len(self.clips))
            with shards, for_learning(config, device) as workers:
                self.embed(this, self.method.modalities_of(update), weights, (shards, workers))
                shards.release()
                labels = {name: self.cluster(this, name) for name in update.clusterings}
            learned.append(self.learn(this, number, update, labels, weights))
            for clustering in labels.values():
                clustering.close()
            weights = this.update(number) / "encoders.safetensors"
            self.trained |= dict.fromkeys(update.encoders, this.number)
        this.encoders.write_bytes(weights.read_bytes())
        seconds = round(time.monotonic() - started, 2)
        self.run.commit(this, {"round": this.number, "updates": learned, "seconds": seconds})
        self.events.add("round", round=this.number, seconds=seconds)
        if not self.run.config.embedding.keep:
            for modality in MODALITIES:
                before.features(modality).delete()
                before.raw(modality).delete()

    def settled(self, last: Round) -> bool:
        """Whether another round would learn what the last one did, as far as the settings care."""
        config = self.run.config
        if not config.settled_nmi or last.number < config.min_rounds:
            return False
        self.label_last(last)  # the next round takes most of it up
        found = {}
        for name in self.method.clusterings:
            before = self.run.round(last.number - 1).clusters(name)
            if not (before / "clustering.json").exists():
                return False
            pair = [read_labels(place, len(self.clips)) for place in (before, last.clusters(name))]
            found[name] = measures.normalized_mutual_information(*pair)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        settled = min(found.values()) >= config.settled_nmi
        say(
            f"round {last.number} · NMI of the clusters with the last round's: {shown} · "
            + (f"settled ({config.settled_nmi} is enough): it ends here" if settled else "goes on")
        )
        return settled

    def label_last(self, last: Round) -> None:
        """Features and pseudo-labels of the final encoders: for evaluation and the report."""
        self.trained = dict.fromkeys(MODALITIES, last.number)
        with for_clustering(self.run.config, len(self.clips)) as shards:
            self.embed(last, MODALITIES, last.encoders, (shards,))
        for name in self.method.clusterings:
            self.cluster(last, name).close()

    def embed(
        self,
        this: Round,
        modalities: tuple[str, ...],
        weights: Location,
        ahead: Sequence[Standby] = (),
    ) -> None:
        """Features of the encoders as they are now, for the modalities that lack them.

        Args:
            ahead: nodes of the stages after it.
        """
        lacking = [m for m in modalities if not (self.features(m) / "DONE").exists()]
        raw = [m for m in lacking if self.is_raw(m)]
        for names, source in ((raw, None), ([m for m in lacking if m not in raw], weights)):
            if names:
                title = self._title(this, f"embed {' and '.join(names)}")
                out, refused = {m: self.features(m) for m in names}, this.rejects
                config = self.run.config
                counts = embed(
                    self.clips, self.published, source, out, refused, config, title, ahead
                )
                self.events.add("embed", round=this.number, modalities=names, **counts)

    def is_raw(self, modality: str) -> bool:
        """Whether what is clustered next comes from no encoder."""
        return self.trained[modality] == 0 and self.run.config.clustering.first == "raw"

    def features(self, modality: str) -> Location:
        """Where the features lie that are clustered next."""
        newest = self.run.round(self.trained[modality])
        return newest.raw(modality) if self.is_raw(modality) else newest.features(modality)

    def cluster(self, this: Round, name: str) -> Clustering:
        """Pseudo-labels of one clustering of the newest features, published to every node."""
        title = self._title(this, f"cluster {name}")
        modalities = self.method.clusterings[name]
        version = self._version(name)
        out = self.run.round(version).clusters(name)
        finished = (out / "clustering.json").exists()
        started = time.monotonic()
        task = ClusteringTask(
            features=tuple(self.features(m) for m in modalities),
            num_clips=len(self.clips),
            clips=self.clips.location,
            config=self.run.config.clustering,
            seed=_seed(self.run.config.seed, version, name),
            out=out,
        )
        clustering = cluster(
            task,
            resources=self.run.config.resources,
            on_progress=lambda progress: _follow(name, progress),
        )
        if not finished:
            measures = self._measure(name, version, clustering)
            self.events.add("cluster", round=version, clustering=name, **measures)
            shown = " · ".join(
                f"{key.replace('_', ' ')} {value:.3g}" for key, value in measures.items()
            )
            say(f"{title} · {duration(time.monotonic() - started)} · {shown}")
        return clustering

    def learn(
        self,
        this: Round,
        number: int,
        update: Update,
        labels: dict[str, Clustering],
        weights: Location,
    ) -> dict[str, Any]:
        """Train the update's encoders, unless an earlier attempt did."""
        out = this.update(number)
        finished = out / "metrics.json"
        if finished.exists():
            return finished.read_json()
        published = {name: (clustering.labels, clustering.k) for name, clustering in labels.items()}
        title = self._title(this, f"learn {' and '.join(update.encoders)}")
        config, key = self.run.config, (self.run.config.seed, this.number, number)
        metrics = learn(
            self.clips,
            self.published,
            self.method,
            update,
            published,
            weights,
            out,
            this.rejects,
            config,
            key,
            title,
            bank=self._bank(this, update),
        )
        last = metrics["epochs"][-1]
        self.events.add(
            "learn", round=this.number, update=number, **last, wait=metrics["wait_share"]
        )
        say(f"{title} · " + " · ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in last.items()))
        return metrics

    def _bank(self, this: Round, update: Update) -> dict[str, Location] | None:
        """Where the update's features go that need no embedding."""
        if not self.run.config.embedding.from_training:
            return None
        return {modality: this.features(modality) for modality in update.encoders}

    # -- shown and logged ----------------------------------------------------------------------

    def _version(self, name: str) -> int:
        """The round whose encoders a clustering's newest features come from."""
        return max(self.trained[m] for m in self.method.clusterings[name])

    def _title(self, this: Round, stage: str) -> str:
        return f"round {this.number}/{self.run.config.rounds} · {stage}"

    def _measure(self, name: str, version: int, clustering: Clustering) -> dict[str, float]:
        """How this clustering looks, and how far it moved from the one before."""
        sizes = clustering.sizes
        values = {
            "k": float(clustering.k),
            "objective": clustering.objective[-1],
            "imbalance": measures.imbalance_factor(sizes),
            "effective_clusters": measures.effective_clusters(sizes),
        }
        used = values["effective_clusters"] / clustering.k
        metrics.level("xdc_effective_clusters", used, clustering=name)
        new = ray.get(clustering.labels[0])
        before = self.run.round(version - 1).clusters(name)
        if version and (before / "clustering.json").exists():
            old = read_labels(before, len(self.clips))
            values["nmi_to_last"] = measures.normalized_mutual_information(old, new)
            values["churn"] = measures.churn(old, new)
        files = self.clips.files()
        if not version and files is not None:
            # How far first clusters follow what a file's clips share, which is beside the point.
            first = new[: len(files)]
            values["ami_to_files"] = measures.adjusted_mutual_information(files, first)
        for other in self.method.clusterings:
            there = self.run.round(self._version(other)).clusters(other)
            if other != name and (there / "clustering.json").exists():
                # Without labels, the best sign that learning goes well (benchmarks/findings.md).
                theirs = read_labels(there, len(self.clips))
                values[f"agreement_with_{other}"] = agreement(theirs, new)
                if files is not None:
                    values[f"agreement_with_{other}_beyond_files"] = agreement(theirs, new, files)
        warning = measures.collapse_alarm(sizes)
        if warning:
            say(f"warning: {name} clusters: {warning}")
        return values


def check(config: Config, method: Method, clips: ClipTable) -> None:
    """Refuse at once what could only fail hours later.

    Raises:
        UserError: k exceeds the number of clips that can be clustered, or no GPU can decode.
    """
    if config.clips.decoder == "cuda" and choose_device(config.resources) != "cuda":
        raise UserError(
            "clips.decoder=cuda needs GPU nodes, and the cluster has none; set clips.decoder=cpu"
        )
    usable = clips.count(tuple({m for ms in method.clusterings.values() for m in ms}))
    if config.clustering.k > usable:
        raise UserError(
            f"clustering.k={config.clustering.k} exceeds the {usable:,} clips of {clips.location} "
            "that can be clustered; lower clustering.k or index more media"
        )


def _follow(clustering: str, progress: KMeansProgress) -> None:
    metrics.level("xdc_kmeans_iteration", progress.iteration, clustering=clustering)
    if progress.objective is not None:
        metrics.level("xdc_kmeans_objective", progress.objective, clustering=clustering)


def _seed(seed: int, version: int, name: str) -> int:
    return int(np.random.SeedSequence((seed, version, *name.encode())).generate_state(1)[0])
