"""The filters of a selection, as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.curation.clustered_clips import ClusteredClips
from pipeline.curation.exclusion import Cluster, read_clip_ids
from pipeline.errors import UserError
from pipeline.methods import MODALITIES
from pipeline.storage import Location


@dataclass(frozen=True)
class Filters:
    """Which filters work, and how; each is off by default."""

    clusters: tuple[Cluster, ...] = ()  # left out
    ids: str = ""  # file of ids of clips, left out
    least_agreement: float | None = None  # nats (`pair_likelihood`)
    disagreeing_share: float | None = None  # of the clips, those that agree least
    near: float | None = None  # cosine from which on clips are near-duplicates
    near_in: tuple[str, ...] = ()  # clusterings in whose vectors; none: all
    clips: int | None = None  # to draw
    share: float | None = None  # to draw, of those that are left
    draw_by: str = ""  # clustering; none: the first
    levels: tuple[int, ...] | None = None  # clusters of the levels above; None: by themselves

    def spaces(self, clustered: ClusteredClips) -> tuple[str, ...]:
        """In which two clips must be near."""
        return self.near_in or tuple(clustered.clusterings)

    def tree(self, clustered: ClusteredClips) -> str:
        """By which clustering clips are drawn."""
        return self.draw_by or next(iter(clustered.clusterings))

    @property
    def draws(self) -> bool:
        return self.clips is not None or self.share is not None

    @property
    def agrees(self) -> bool:
        return self.least_agreement is not None or self.disagreeing_share is not None

    def check(self, clustered: ClusteredClips) -> None:
        """Raise at once what a step would only find after hours.

        Raises:
            UserError: the round has no such clusters, or what a filter needs is gone.
        """
        for name, number in self.clusters:
            k = clustered.num_clusters(name)
            if number >= k:
                raise UserError(f"there is no cluster {name}:{number}: {name} has {k}, from 0")
        if self.ids:
            read_clip_ids(Location.of(self.ids))
        if self.agrees and not {*MODALITIES} <= clustered.clusterings.keys():
            raise UserError(
                "agreement is of video and audio clusters, and round "
                f"{clustered.round.number} has {', '.join(clustered.clusterings)}"
            )
        for name in self.spaces(clustered) if self.near is not None else ():
            clustered.features(name)
        if self.draws:
            k, levels = clustered.num_clusters(self.tree(clustered)), self.levels or ()
            if [*levels] != sorted({*levels}, reverse=True) or (levels and levels[0] >= k):
                raise UserError(
                    f"--levels are ever fewer clusters, below the {k} of {self.tree(clustered)}, "
                    f"and not {' '.join(map(str, levels))}"
                )
