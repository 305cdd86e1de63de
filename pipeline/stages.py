"""The stages of a round over one run directory, each resumable by itself.

A stage looks at what is there, does what lacks, and says so. What earlier stages wrote and is
damaged is made again where it is met.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ray

from pipeline.clips.table import PublishedClips
from pipeline.clustering import Clustering, ClusteringTask, cluster, read_labels
from pipeline.clustering.agreement import agreement
from pipeline.clustering.matching import matched, share_of_new
from pipeline.clustering.summary import show_progress, summarize, warn_of_collapse
from pipeline.embedding.embed import EmbeddingTask, embed, origin_of
from pipeline.embedding.written import discard
from pipeline.learning.group import TrainingGroup
from pipeline.learning.learn import learn, metrics_of
from pipeline.learning.task import LearningTask, PublishedLabels
from pipeline.manifest import NAME, Damaged
from pipeline.methods import MODALITIES, Method
from pipeline.recovery import labels_seal
from pipeline.run import Encoders, Round, Run
from pipeline.runtime.standby import NextStages
from pipeline.telemetry.console import duration, say
from pipeline.telemetry.events import EventLog

MATCHED = "matched.json"  # beside a clustering: its clusters' ids in the round before
_REPAIRS = 100  # of damaged features, one after the other


@dataclass(frozen=True)
class Stages:
    """Embedding, clustering and learning for the rounds of a method."""

    run: Run
    method: Method
    clips: PublishedClips
    events: EventLog
    workers: TrainingGroup = field(default_factory=TrainingGroup)

    def embed(
        self, this: Round, modalities: Sequence[str], now: Encoders, ahead: NextStages | None = None
    ) -> None:
        """Features of the encoders as they are now, for the modalities that lack them."""
        passes: dict[tuple[bool, int], list[str]] = {}
        for modality in modalities:
            passes.setdefault((now.is_raw(modality), now.trained[modality]), []).append(modality)
        for (raw, version), together in passes.items():
            of_it = self.run.round(version)
            counts = embed(
                EmbeddingTask(
                    clips=self.clips,
                    weights=None if raw else now.weights,
                    out={m: now.features(m) for m in together},
                    rejects=of_it.rejects,
                    config=self.run.config,
                    title=self._title(this, f"embed {' and '.join(together)}"),
                    ahead=ahead,
                    lost_before=self._lost_before(version),
                )
            )
            if counts:
                self.events.add("embed", round=this.number, modalities=together, **counts)
                of_it.counts.write_json({name: counts[name] for name in ("clips", "rejected")})

    def cluster_all(
        self, this: Round, names: Iterable[str], now: Encoders, ahead: NextStages
    ) -> dict[str, Clustering]:
        """Pseudo-labels of these clusterings, of features that are embedded where they lack."""
        tasks = {name: self._task(name, now) for name in names}
        lacking = {name for name, task in tasks.items() if not task.is_there()}
        needed = {m for name in lacking for m in self.method.clusterings[name]}
        found: dict[str, Clustering] = {}
        for attempt in range(_REPAIRS):
            self.embed(this, [m for m in MODALITIES if m in needed], now, ahead)
            ahead.clustering_begins()
            try:
                for name, task in tasks.items():
                    if name not in found:
                        found[name] = self.cluster(this, name, now, task, name not in lacking)
            except Damaged as damaged:
                say(f"{damaged.place} is damaged ({damaged.what}): its clips are embedded again")
                discard(damaged)
                if attempt + 1 == _REPAIRS:
                    raise
            else:
                break
        return found

    def cluster(
        self, this: Round, name: str, now: Encoders, task: ClusteringTask, finished: bool
    ) -> Clustering:
        """Pseudo-labels of one clustering of the newest features, published to every node."""
        started = time.monotonic()
        clustering = cluster(
            task, resources=self.run.config.resources, on_progress=partial(show_progress, name)
        )
        if not finished:
            version = now.version(self.method.clusterings[name])
            found = self._summary(name, version, clustering, now)
            told = {**found, "seconds": round(time.monotonic() - started, 2)}
            self.events.add("cluster", round=version, clustering=name, **told)
            shown = " · ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in found.items())
            title = self._title(this, f"cluster {name}")
            say(f"{title} · {duration(time.monotonic() - started)} · {shown}")
            warn_of_collapse(name, clustering)
            if version:
                self._beside_the_start(name, found, title)
                self._match(name, version, clustering, title)
        return clustering

    def _match(self, name: str, version: int, clustering: Clustering, title: str) -> None:
        """Write which clusters these were in the round before; say where clips that are new lie."""
        before, labels = self.labels_of(name, version - 1), ray.get(clustering.labels[0])
        if before is None:
            return
        found: dict[str, Any] = {"round": version - 1}
        found["clusters"] = matched(before, labels, clustering.k).tolist()
        counts = (self._num_clustered(name, number) for number in reversed(range(version)))
        first_new = next((n for n in counts if n is not None and n < len(labels)), None)
        if first_new is not None:
            shares = share_of_new(labels, first_new, clustering.k)
            found |= {"first_new_clip": first_new, "share_of_new": shares.round(4).tolist()}
            most, least = int(shares.argmax()), int(shares.argmin())
            say(
                f"{title} · {1 - first_new / len(labels):.0%} of the clips are new: "
                f"{shares[least]:.0%} of cluster {least}, {shares[most]:.0%} of cluster {most}"
            )
        (clustering.out / MATCHED).write_json(found)

    def _num_clustered(self, name: str, version: int) -> int | None:
        place = self.run.round(version).clusters(name) / "clustering.json"
        with suppress(FileNotFoundError, ValueError, KeyError):
            return int(place.read_json()["num_clips"])
        return None

    def _beside_the_start(self, name: str, found: Mapping[str, float], title: str) -> None:
        """Of a run that began with weights: say how far its first clusters agreed, too."""
        first = self.labels_of(name, 0)
        if first is None or not self.run.config.encoders.started:
            return
        for other in self.method.clusterings:
            theirs, now = self.labels_of(other, 0), found.get(f"agreement_with_{other}")
            if other == name or theirs is None or now is None:
                continue
            start = agreement(theirs, first)
            say(f"{title} · agreement with {other} {now:.3g}, the start's {start:.3g}")
            if now < start:
                say(
                    "warning: the two modalities agree less than at the start: what was there may "
                    "be getting lost. Lower learning.trunk_lr, or leave stages frozen "
                    "(encoders.*.frozen)"
                )

    def learn(
        self,
        this: Round,
        number: int,
        labels: dict[str, Clustering],
        now: Encoders,
        made_of: dict[str, Any],
    ) -> dict[str, Any]:
        """Train the update's encoders, unless an earlier attempt did."""
        out, update = this.update(number), self.method.updates[number]
        started = time.monotonic()
        if (finished := metrics_of(out, made_of)) is not None:
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
                made_of=made_of,
            ),
            self.workers,
        )
        last, wait = learned["epochs"][-1], learned["wait_share"]
        told = {**last, "wait": wait, "seconds": round(time.monotonic() - started, 2)}
        self.events.add("learn", round=this.number, update=number, **told)
        say(f"{title} · " + " · ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in last.items()))
        return learned

    def _task(self, name: str, now: Encoders) -> ClusteringTask:
        """A clustering of the features of the encoders as they are now, be they there or not."""
        config, modalities = self.run.config, self.method.clusterings[name]
        version, table = now.version(modalities), self.clips.table
        return ClusteringTask(
            features=tuple(now.features(m) for m in modalities),
            num_clips=len(self.clips),
            clips=table.location,
            config=config.clustering,
            seed=_seed(config.seed, version, name),
            out=self.run.round(version).clusters(name),
            made_of=tuple(
                origin_of(None if now.is_raw(m) else now.weights, config, table).noted(m)
                for m in modalities
            ),
        )

    def seals_of(self, labels: Mapping[str, Clustering]) -> dict[str, list[Any]]:
        """Folder of each clustering, below the run → `labels_seal`."""
        prefix = f"{self.run.location.uri}/"
        return {c.out.uri.removeprefix(prefix): labels_seal(c.out) for c in labels.values()}

    def _lost_before(self, version: int) -> float:
        """Share of the clips that the pass over the encoders before these rejected."""
        counts = self.run.round(version - 1).counts
        if version == 0 or not counts.exists():
            return 0.0
        found = counts.read_json()
        return found["rejected"] / max(found["clips"], 1)

    def _title(self, this: Round, stage: str) -> str:
        return f"round {this.number}/{self.run.config.rounds} · {stage}"

    def labels_of(self, name: str, version: int) -> np.ndarray | None:
        """int32 [N] of a clustering of the encoders of round `version`; None: there is none."""
        out = self.run.round(version).clusters(name)
        if version < 0:
            return None
        try:
            return read_labels(out, len(self.clips)) if (out / NAME).exists() else None
        except Damaged:  # it is only for comparison here
            return None

    def _summary(
        self, name: str, version: int, clustering: Clustering, now: Encoders
    ) -> dict[str, float]:
        found = {
            other: self.labels_of(other, now.version(modalities))
            for other, modalities in self.method.clusterings.items()
            if other != name
        }
        return summarize(
            clustering,
            ray.get(clustering.labels[0]),
            before=self.labels_of(name, version - 1),
            files=self.clips.table.files(),
            others={other: labels for other, labels in found.items() if labels is not None},
            first=version == 0,
        )


def _seed(seed: int, version: int, name: str) -> int:
    return int(np.random.SeedSequence((seed, version, *name.encode())).generate_state(1)[0])
