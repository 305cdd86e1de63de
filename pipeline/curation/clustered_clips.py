"""A run's clips as one of its rounds clustered them: labels, and vectors where they are kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np

from pipeline import methods
from pipeline.clips.table import ClipTable
from pipeline.clustering import read_labels
from pipeline.clustering.feature_files import read_range
from pipeline.clustering.inputs import unit
from pipeline.clustering.transform import Transform
from pipeline.errors import UserError
from pipeline.manifest import NAME, Manifest, digest_of
from pipeline.run import Round, Run
from pipeline.storage import Location

_ROWS = 4096  # transformed at once


@dataclass(frozen=True)
class VectorSpace:
    """Where a clustering's clips lie: its features after its transform, each of length one."""

    features: tuple[Location, ...]  # folder of each modality, which are joined
    transform: Transform

    @property
    def width(self) -> int:
        """One number more than the transform gives: 1 where a clip has no features, else 0.

        So two clips that both lack a modality are alike in it, and unlike all that have it.
        """
        return self.transform.dim + 1

    def read(self, clips: np.ndarray, start: int, stop: int) -> np.ndarray:
        """float16 [n, width] of the clips int64 [n], ascending, all of them in [start, stop)."""
        found = [read_range(folder, start, stop) for folder in self.features]
        there = reduce(np.intersect1d, (index for index, _ in found), clips)
        vectors = np.zeros((len(clips), self.width), np.float16)
        vectors[:, -1] = 1
        for at in range(0, len(there), _ROWS):
            some = there[at : at + _ROWS]
            raw = [values[np.searchsorted(index, some)] for index, values in found]
            rows = self.transform(self.transform.joined(np.concatenate(raw, axis=1)))
            place = np.searchsorted(clips, some)
            vectors[place, :-1], vectors[place, -1] = unit(rows), 0
        return vectors


@dataclass(frozen=True)
class ClusteredClips:
    """One round of a run."""

    run: Run
    round: Round
    clusterings: Mapping[str, tuple[str, ...]]  # name → modalities, of those that are there
    _labels: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run, number: int | None) -> ClusteredClips:
        """
        Args:
            number: of the round; None: the last finished one.

        Raises:
            UserError: there is no such round, or it has no clusters.
        """
        this = run.finished_round(number)
        every = methods.get(run.config.method).clusterings
        there = {n: ms for n, ms in every.items() if (this.clusters(n) / NAME).exists()}
        if not there:
            raise UserError(
                f"round {this.number} of {run.location} has no clusters: name another --round, or "
                "give its jobs/pretrain.py command again, which clusters the last round"
            )
        return cls(run, this, there)

    @cached_property
    def clips(self) -> ClipTable:
        return ClipTable.open(self.run.clips)

    @cached_property
    def in_training(self) -> np.ndarray:
        """bool [N], clips of the splits that the run clusters and learns from."""
        return self.clips.in_splits(self.run.config.clips.split)

    def labels(self, name: str) -> np.ndarray:
        """int32 [N], -1: none. Raises UserError if the round has no such clustering."""
        if name not in self.clusterings:
            raise UserError(
                f"round {self.round.number} of {self.run.location} has no clusters {name!r}; it "
                f"has {', '.join(self.clusterings)}"
            )
        if name not in self._labels:
            found = read_labels(self.round.clusters(name), len(self.clips))
            self._labels[name] = np.where(self.in_training, found, np.int32(-1))
        return self._labels[name]

    def num_clusters(self, name: str) -> int:
        return len(self.centroids(name))

    def centroids(self, name: str) -> np.ndarray:
        """float32 [k, d]."""
        self.labels(name)
        return np.load(self._file(name, "centroids.npy"), allow_pickle=False)

    def features(self, name: str) -> tuple[Location, ...]:
        """The folders that a clustering was made of.

        Raises:
            UserError: the run has deleted them.
        """
        self.labels(name)
        now = self.run.encoders_after(self.round)
        folders = tuple(now.features(m) for m in self.clusterings[name])
        for folder in folders:
            if not (folder / NAME).exists():
                raise UserError(
                    f"the features of round {self.round.number} are gone ({folder}): a run keeps "
                    "those of its last round alone. Leave --round out, or give the "
                    "jobs/pretrain.py command again, which makes the last round's; "
                    "embedding.keep=true keeps every round's"
                )
        return folders

    def space(self, name: str) -> VectorSpace:
        """Raises as `features` does."""
        transform = Transform.loads(self._file(name, "transform.npz").getvalue())
        return VectorSpace(self.features(name), transform)

    def _file(self, name: str, file: str) -> io.BytesIO:
        manifest = Manifest.read(self.round.clusters(name))
        assert manifest is not None
        return io.BytesIO(manifest.load(file))

    @cached_property
    def identity(self) -> list[str]:
        """What tells these clips and clusters from others."""
        seals = [digest_of((self.round.clusters(n) / NAME).read_bytes()) for n in self.clusterings]
        return [str(self.clips.identity()), str(self.round.number), *seals]
