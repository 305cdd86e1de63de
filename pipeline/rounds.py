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
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import ray

from pipeline import methods
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.fill import publish_clips
from pipeline.clips.stream import Order
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.clustering import Clustering, cluster, measures, read_labels
from pipeline.clustering import Progress as KMeansProgress
from pipeline.clustering.agreement import agreement
from pipeline.config import Config
from pipeline.embedding.embed import EmbeddingTask, embed, warm_batchnorm
from pipeline.errors import UserError
from pipeline.learning.learn import learn
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.methods import MODALITIES, Method
from pipeline.run import Encoders, Round, Run
from pipeline.runtime.devices import choose_device
from pipeline.runtime.placement import decoding
from pipeline.runtime.standby import NextStages
from pipeline.telemetry import metrics
from pipeline.telemetry.events import EventLog
from pipeline.telemetry.progress import duration, say
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
        check(config, method, clips)
        run = Run.open(config)
        published = publish_clips(clips, run.location, config)
        return cls(run, method, published, EventLog(run.location, Trackers(run.location, config)))

    def begin(self) -> int:
        """Round 0: random encoders, their BatchNorm statistics set by a few batches."""
        config, zero = self.run.config, self.run.round(0)
        started = time.monotonic()
        rng = np.random.default_rng((config.seed, 0))
        wanted = config.encoders.warm_batches * config.embedding.batch_size
        chosen = rng.choice(len(self.clips), size=min(wanted, len(self.clips)), replace=False)
        order = Order(len(chosen), config.embedding.batch_size, [ray.put(np.sort(chosen))])
        warm = warm_batchnorm.options(
            **decoding(config.resources, load_decoder(config.clips.decoder).on_gpu)
        )
        ray.get(warm.remote(zero.encoders, self.clips, order, config))
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
            self.embed(last, MODALITIES, now, ahead)
        for name in self.method.clusterings:
            self.cluster(last, name, now).close()

    def settled(self, last: Round) -> bool:
        """Whether another round would learn what the last one did, as far as the settings care."""
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
        say(
            f"round {last.number} · NMI of the clusters with the last round's: {shown} · "
            + (f"settled ({config.settled_nmi} is enough): it ends here" if settled else "goes on")
        )
        return settled

    # -- stages --------------------------------------------------------------------------------

    def embed(
        self,
        this: Round,
        modalities: tuple[str, ...],
        now: Encoders,
        ahead: NextStages | None = None,
    ) -> None:
        """Features of the encoders as they are now, for the modalities that lack them."""
        lacking = [m for m in modalities if not (now.features(m) / "DONE").exists()]
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
        modalities = self.method.clusterings[name]
        version = now.version(modalities)
        out = self.run.round(version).clusters(name)
        finished = (out / "clustering.json").exists()
        started = time.monotonic()
        clustering = cluster(
            [now.features(m) for m in modalities],
            num_clips=len(self.clips),
            clips=self.clips.table.location,
            config=self.run.config.clustering,
            resources=self.run.config.resources,
            seed=_seed(self.run.config.seed, version, name),
            out=out,
            on_progress=lambda progress: _follow(name, progress),
        )
        if not finished:
            found = self._measure(name, version, clustering, now)
            self.events.add("cluster", round=version, clustering=name, **found)
            shown = " · ".join(
                f"{key.replace('_', ' ')} {value:.3g}" for key, value in found.items()
            )
            title = self._title(this, f"cluster {name}")
            say(f"{title} · {duration(time.monotonic() - started)} · {shown}")
        return clustering

    def learn(
        self, this: Round, number: int, labels: dict[str, Clustering], now: Encoders
    ) -> dict[str, Any]:
        """Train the update's encoders, unless an earlier attempt did."""
        out, update = this.update(number), self.method.updates[number]
        finished = out / "metrics.json"
        if finished.exists():
            return finished.read_json()
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
        last = learned["epochs"][-1]
        wait = learned["wait_share"]
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

    def _measure(
        self, name: str, version: int, clustering: Clustering, now: Encoders
    ) -> dict[str, float]:
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
        old = self._labels(name, version - 1)
        if old is not None:
            values["nmi_to_last"] = measures.normalized_mutual_information(old, new)
            values["churn"] = measures.churn(old, new)
        files = self.clips.table.files()
        if not version and files is not None:
            # How far first clusters follow what a file's clips share, which is beside the point.
            first = new[: len(files)]
            values["ami_to_files"] = measures.adjusted_mutual_information(files, first)
        for other, modalities in self.method.clusterings.items():
            theirs = self._labels(other, now.version(modalities)) if other != name else None
            if theirs is not None:
                # Without labels, the best sign that learning goes well (benchmarks/findings.md).
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
        UserError: k exceeds the number of clips that can be clustered, or the decoder is
            unknown or needs a GPU that the cluster lacks.
    """
    decoder = config.clips.decoder
    if load_decoder(decoder).on_gpu and choose_device(config.resources) != "cuda":
        raise UserError(
            f"clips.decoder={decoder} needs GPU nodes, and the cluster has none; set "
            "clips.decoder=cpu"
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
