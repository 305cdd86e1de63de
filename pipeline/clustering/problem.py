"""What is to be clustered, how, and where to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.clustering.feature_files import listing
from pipeline.config import ClusteringConfig
from pipeline.manifest import Damaged, Entry, Manifest, seal
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
        made_of: of each folder what its features are made of, as its manifest says; without it,
            features are known by the names and sizes of their files.
    """

    features: tuple[Location, ...]
    num_clips: int
    clips: Location | None
    config: ClusteringConfig
    seed: int
    out: Location
    made_of: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """Tells results of these settings and features from others."""
        # Without defaults, so that a setting which is younger than the result does not matter.
        defaults = ClusteringConfig().outcome()
        chosen = {name: v for name, v in self.config.outcome().items() if v != defaults[name]}
        features = list(self.made_of) or listing(self.features)
        parts = [chosen, self.num_clips, self.seed, features]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def finished(self) -> bool:
        """Whether ``out`` holds the result of this very task, sealed.

        Raises:
            Damaged: it does, and a file is not as it was written.
        """
        manifest = Manifest.whole(self.out)
        if manifest is None:
            return False
        manifest.check_content()
        summary, now = json.loads(manifest.load("clustering.json")), self.config.outcome()
        then = ClusteringConfig().outcome() | summary["config"]
        same = all(then[name] == value for name, value in now.items())
        same &= (summary["seed"], summary["num_clips"]) == (self.seed, self.num_clips)
        # Features may have been removed since; if they are there they must be the same.
        known = bool(self.made_of) or any(listing(self.features))
        same &= summary["key"] == self.key or not known
        if not same:
            log.warning("%s holds a clustering of other settings or features; redone", self.out)
        return same

    def is_there(self) -> bool:
        """`finished`, and whole."""
        try:
            return self.finished()
        except Damaged:
            return False

    def adopted(self) -> bool:
        """Seal the result of an earlier life that ended just before it did this, if there is one.

        Raises:
            Damaged: there is, and a file is not as it was written.
        """
        place = self.out / "clustering.json"
        if not place.exists():
            return False
        try:
            files, summary = self._files(), place.read_json()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Damaged(place, "it cannot be read") from None
        if summary.get("key") != self.key:
            return False
        Manifest(self.out, files, {}).check_content()
        self.seal()
        return True

    def seal(self) -> None:
        """Make what is in ``out`` count."""
        seal(self.out, self._files())

    def _files(self) -> dict[str, Entry]:
        """clustering.json, and the other files, which it names."""
        data = (self.out / "clustering.json").read_bytes()
        files = {name: Entry(*entry) for name, entry in json.loads(data)["files"].items()}
        return files | {"clustering.json": Entry.of(data)}
