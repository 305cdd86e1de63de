"""What is to be clustered, how, and where to."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass

from pipeline.clustering.inputs import listing
from pipeline.config import ClusteringConfig
from pipeline.storage import Location

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusteringTask:
    """One clustering.

    Attributes:
        features: one folder of Parquet parts (``clip_index``, ``features``) per modality. Several
            are L2-normalised each and joined, and only clips present in all count.
        num_clips: N; clip indices lie in [0, N).
        clips: folder of the clips table, for ``clip_id`` in the label files; None: no ``clip_id``.
        config: see `ClusteringConfig`.
        seed: of everything random.
        out: folder to write.
    """

    features: tuple[Location, ...]
    num_clips: int
    clips: Location | None
    config: ClusteringConfig
    seed: int
    out: Location

    @property
    def key(self) -> str:
        """Tells results of these settings and features from others."""
        # Without defaults, so that a setting which is younger than the result does not matter.
        defaults = ClusteringConfig().outcome()
        chosen = {name: v for name, v in self.config.outcome().items() if v != defaults[name]}
        parts = [chosen, self.num_clips, self.seed, listing(self.features)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def finished(self) -> bool:
        """Whether ``out`` holds the result of this very task."""
        place = self.out / "clustering.json"
        if not place.exists():
            return False
        summary, now = place.read_json(), self.config.outcome()
        then = ClusteringConfig().outcome() | summary["config"]
        same = all(then[name] == value for name, value in now.items())
        same &= (summary["seed"], summary["num_clips"]) == (self.seed, self.num_clips)
        # Features may have been removed since; if they are there they must be the same.
        same &= summary["key"] == self.key or not any(listing(self.features))
        if not same:
            log.warning("%s holds a clustering of other settings or features; redone", self.out)
        return same
