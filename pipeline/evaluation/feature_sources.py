"""What is evaluated: the encoders of rounds, baselines, and the features that each gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.clips.fill import publish_clips
from pipeline.clips.table import PublishedClips
from pipeline.embedding.embed import EmbeddingTask, embed, origin_of
from pipeline.embedding.shards import read_features
from pipeline.embedding.written import discard, unfinished
from pipeline.evaluation.classifiers import ClipFeatures
from pipeline.evaluation.examples import Examples
from pipeline.evaluation.supervision import Supervision, supervised
from pipeline.manifest import Damaged
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.console import say

_Read = tuple[np.ndarray, np.ndarray]  # see `read_features`
START = "start"  # round 0 of a run that began with weights
BOTH = "both"  # features of the two modalities side by side, each of length one


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from: a round's encoders, a baseline's, or no encoder at all."""

    name: str  # shown in the report
    weights: Location | None  # safetensors of both encoders; None: no learning (encoders/raw.py)
    round: int | None  # whose encoders these are; None: no round's

    @property
    def folder(self) -> str:
        """Folder of its features; other weights get another, even with the same round number."""
        if self.weights is None:
            return self.name
        digest = hashlib.blake2b(self.weights.read_bytes(), digest_size=4).hexdigest()
        stem = "supervised" if self.round is None else f"round-{self.round:04d}"
        return f"{stem}-{digest}"


def sources_of(
    run: Run, rounds: Sequence[int], baselines: Sequence[str], test_split: str
) -> list[FeatureSource]:
    """The encoders of the rounds and the baselines, each once.

    Args:
        baselines: ``random`` (round 0, of random weights or not), ``raw``, ``supervised`` or
            ``supervised:TABLE:COLUMN``.
        test_split: what supervised baselines must not learn from, see `splits.sides_of`.

    Raises:
        UserError: there are no labels to supervise a baseline with.
    """
    sources = []
    wanted: list[int | str] = [*rounds, *baselines]
    for asked in wanted:
        if asked == "raw":
            sources.append(FeatureSource("raw", None, None))
        elif asked in (0, "random"):
            name = START if run.config.encoders.started else "random"
            sources.append(FeatureSource(name, run.round(0).encoders, 0))
        elif isinstance(asked, int):
            sources.append(FeatureSource(f"round {asked}", run.round(asked).encoders, asked))
        else:
            labels = Supervision.parsed(asked)
            weights = supervised(run, labels, test_split)
            sources.append(FeatureSource(labels.name, weights, None))
    return list(dict.fromkeys(sources))


@dataclass(frozen=True)
class ExampleFeatures:
    """Features of the examples' clips, made when asked for and kept in `place`.

    A round's own features serve where pretraining has finished them for all of these clips. They
    are only read: nothing is ever written into a round.
    """

    run: Run
    examples: Examples
    place: Location
    modalities: Sequence[str]  # video, audio or both, which is made of the other two

    @cached_property
    def published(self) -> PublishedClips:
        """The clips for decoding; the run's own use its clip store, where it has one."""
        clips = self.examples.clips
        if not self.own:
            return clips.publish()
        return publish_clips(clips, self.run.location, self.run.config, may_fill=False)

    @cached_property
    def labelled(self) -> np.ndarray:
        """bool [clips]: of a run of millions, the features of a few are held."""
        return self.examples.labels[self.examples.example] >= 0

    @property
    def own(self) -> bool:
        """Whether the clips are those that the run learned from."""
        return self.examples.clips.location == self.run.clips

    def of(self, source: FeatureSource) -> dict[str, ClipFeatures]:
        """Of clips with labels, by modality; one without a modality has no features of it."""
        there = [m for m in self.examples.modalities if {m, BOTH} & {*self.modalities}]
        read = self._of_round(source, there)
        read |= self._embedded(source, [m for m in there if m not in read])
        found = {}
        for modality in there:
            values, present = read[modality]
            known = values[present].astype(np.float32)
            found[modality] = ClipFeatures(known, self.examples.example[self.labelled][present])
        if BOTH in self.modalities:
            found[BOTH] = side_by_side(*(found[m] for m in there))
        return found

    def _of_round(self, source: FeatureSource, modalities: Sequence[str]) -> dict[str, _Read]:
        """What the round itself has of these clips; pretraining may delete it at any time."""
        found: dict[str, _Read] = {}
        if self.own and source.round is not None:
            this, config = self.run.round(source.round), self.run.config.of_all_clips()
            origin = origin_of(source.weights, config, self.examples.clips)
            for modality in modalities:
                folder = this.features(modality)
                with suppress(Damaged, FileNotFoundError):
                    if not unfinished({modality: folder}, origin):
                        found[modality] = self._read(folder)
        return found

    def _read(self, folder: Location) -> _Read:
        return read_features(folder, len(self.examples.clips), self.labelled)

    def _embedded(self, source: FeatureSource, modalities: Sequence[str]) -> Mapping[str, _Read]:
        """What is kept in `place`, made or completed first."""
        place, config = self.place / source.folder, self.run.config.of_all_clips()
        out = {m: place / m for m in modalities}

        def made() -> dict[str, _Read]:
            if unfinished(out, origin_of(source.weights, config, self.examples.clips)):
                title = f"{source.name} · embed {' and '.join(out)}"
                where = (self.published, source.weights, out, place / "rejects")
                embed(EmbeddingTask(*where, config, title))
            return {m: self._read(folder) for m, folder in out.items()}

        try:
            return made()
        except Damaged as damaged:
            say(f"{damaged.place} is damaged ({damaged.what}): it is made again")
            discard(damaged)
            return made()


def side_by_side(first: ClipFeatures, second: ClipFeatures) -> ClipFeatures:
    """Averaged features, each of length one, float32 [n, d1 + d2]; n examples have both."""
    a, b = first.averaged(), second.averaged()
    both = np.intersect1d(a.example, b.example)
    values = [part.of(both).averaged().values for part in (a, b)]
    return ClipFeatures(np.concatenate(values, axis=1), both)
