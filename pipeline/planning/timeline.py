"""The stages that a run still has to do, in their order, as `pipeline.rounds` goes through them.

Nothing is timed here: this is which pass, which clustering and which update comes when, for a
method and a number of rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.config import Config
from pipeline.methods import MODALITIES, Method

STAGES = ("rest", "store", "embed", "cluster", "learn")  # rest: the job, round 0, commits
Clustered = set[tuple[str, int]]  # (clustering, round of the encoders) that is there already


@dataclass(frozen=True)
class ClipPass:
    """An embedding pass over the clips."""

    modalities: tuple[str, ...]
    raw: bool  # of features without an encoder
    kept: bool  # training kept the features of the clips that it saw

    stage = "embed"


@dataclass(frozen=True)
class LabelPass:
    """One clustering."""

    name: str
    modalities: tuple[str, ...]

    stage = "cluster"


@dataclass(frozen=True)
class UpdatePass:
    """Learning of one update."""

    number: int  # of the method's updates

    stage = "learn"


Piece = ClipPass | LabelPass | UpdatePass


@dataclass
class Timeline:
    """Goes through the rounds after `last` as `Pretraining` does."""

    config: Config
    method: Method
    last: int  # the last finished round
    clustered: Clustered = field(default_factory=set)

    def __post_init__(self) -> None:
        self._trained = dict.fromkeys(MODALITIES, self.last)
        self._embedded: set[tuple[str, int]] = set()
        self._kept: set[tuple[str, int]] = set()

    def pieces(self) -> Iterator[Piece]:
        """All of them, the labelling of the final encoders at the end."""
        keeps = self.config.embedding.from_training
        for number in range(self.last + 1, self.config.rounds + 1):
            for at, update in enumerate(self.method.updates):
                yield from self._labels(update.clusterings)
                yield UpdatePass(at)
                for modality in update.encoders:
                    self._trained[modality] = number
                    if keeps:
                        self._kept.add((modality, number))
        yield from self._passes(self.method.modalities)
        yield from self._labels(self.method.clusterings)

    def _labels(self, names: Iterable[str]) -> Iterator[Piece]:
        lacking = [name for name in names if (name, self._version(name)) not in self.clustered]
        needed = {m for name in lacking for m in self.method.clusterings[name]}
        yield from self._passes([m for m in MODALITIES if m in needed])
        for name in lacking:
            self.clustered.add((name, self._version(name)))
            yield LabelPass(name, self.method.clusterings[name])

    def _passes(self, modalities: Iterable[str]) -> Iterator[ClipPass]:
        """One pass for all encoders of one round, as `Stages.embed` groups them."""
        together: dict[tuple[bool, int], list[str]] = {}
        for modality in modalities:
            version = self._trained[modality]
            if (modality, version) in self._embedded:
                continue
            self._embedded.add((modality, version))
            raw = version == 0 and self.config.clustering.first == "raw"
            together.setdefault((raw, version), []).append(modality)
        for (raw, version), of_it in together.items():
            kept = all((modality, version) in self._kept for modality in of_it)
            yield ClipPass(tuple(of_it), raw, kept)

    def _version(self, name: str) -> int:
        return max(self._trained[m] for m in self.method.clusterings[name])
