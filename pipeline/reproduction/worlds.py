"""Where a study's clips come from: lists of cuts to learn from and to test on.

    OUT/<world>/cuts/<list>.parquet     uri, start_s, end_s, label, split and the world's others
    OUT/<world>/clips/<list>/           the list, indexed
    OUT/<world>/store/<list>-<digest>/  its clips, decoded once, where the settings ask for it

No encoder ever learns from a held-out cut, with or without labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

import pipeline
from pipeline import synthetic
from pipeline.clips.fill import publish_clips
from pipeline.clips.indexing import index
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.evaluation.datasets.cuts import absolute
from pipeline.storage import Location

TRAIN, HELD_OUT = "train", "held_out"
_NEEDED = ("uri", "start_s", "end_s", "label", "split")


@dataclass(frozen=True)
class World:
    """A source of clips.

    `cuts` gives all labelled cuts, made in a folder if necessary: columns ``uri`` (absolute),
    ``start_s``, ``end_s``, ``label``, ``split`` (train, val, test) and perhaps more.
    """

    name: str  # of its folder
    settings: tuple[str, ...]  # what suits its clips, as `pipeline.settings.load` takes it
    labels: tuple[str, ...]  # the columns that supervision can take
    cuts: Callable[[Location], pa.Table]

    def list_of(self, name: str, out: Location) -> Location:
        """A list of cuts, written if it is not there: see `LISTS`."""
        place = out / self.name / "cuts" / f"{name}.parquet"
        if not place.exists():
            place.write_table(LISTS[name](self.cuts(out / self.name)))
        return place

    def clips_of(
        self, name: str, out: Location, config: Config
    ) -> tuple[ClipTable, PublishedClips]:
        """A list, indexed and published for decoding."""
        place = out / self.name / "clips" / name
        index(self.list_of(name, out).full_uri, place, config)  # skips known clips
        clips = ClipTable.open(place / "clips")
        return clips, publish_clips(clips, place, self.stored(name, out, config))

    def stored(self, name: str, out: Location, config: Config) -> Config:
        """`config` with the list's clip store, shared by all runs with the same clip settings."""
        alike = hashlib.blake2b(config.clips.model_dump_json().encode(), digest_size=4).hexdigest()
        place = (out / self.name / "store" / f"{name}-{alike}").full_uri
        return config.model_copy(update={"store": config.store.model_copy(update={"place": place})})


def generated(seed: int, files: int, classes: int = 8, places: int = 8) -> World:
    """The generated world (`pipeline.synthetic`), another one for every seed; written once."""
    kind = synthetic.SyntheticWorld(seed=seed, difficulty=0.0, classes=classes, places=places)
    name = f"generated-{files}x{classes}x{places}-{seed}"

    def cuts(folder: Location) -> pa.Table:
        return _read(Location.of(synthetic.write_world(Path(folder.path) / "media", files, kind)))

    return World(name, (_config("demo"),), ("label",), cuts)


def words(table: str) -> World:
    """Words that a talker says: a cuts table with the columns label (the word), slot (its place in
    the sentence) and split (by sentence)."""
    # Begins as the paper does where a trial does not say otherwise.
    settings = (_config("words"), "clustering.first=random")
    return World("words", settings, ("label", "slot"), lambda _: _read(Location.of(table)))


def _config(name: str) -> str:
    return str(Path(pipeline.__file__).resolve().parents[1] / "configs" / f"{name}.yaml")


def _read(place: Location) -> pa.Table:
    """A cuts table with absolute URIs; raises UserError if it is missing or lacks a column."""
    if not place.exists():
        raise UserError(f"there is no cuts table at {place}")
    table = pa.csv.read_csv(pa.BufferReader(place.read_bytes()))
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise UserError(f"{place} lacks the columns {', '.join(missing)}")
    uris = [absolute(uri, place) for uri in table["uri"].to_pylist()]
    return table.set_column(table.column_names.index("uri"), "uri", pa.array(uris))


# -- lists of cuts, from all labelled cuts -----------------------------------------------------


def _train(cuts: pa.Table) -> pa.Table:
    return cuts.filter(pc.equal(cuts["split"], "train"))


def _anywhere(cuts: pa.Table) -> pa.Table:
    """As many cuts of the same files and lengths, anywhere within the span of a file's cuts."""
    train = _train(cuts)
    start, end = (train[name].to_numpy() for name in ("start_s", "end_s"))
    files = train["uri"].combine_chunks().dictionary_encode().indices.to_numpy()
    first, last = np.full(files.max() + 1, np.inf), np.zeros(files.max() + 1)
    np.minimum.at(first, files, start)
    np.maximum.at(last, files, end)
    length = end - start
    begin = np.random.default_rng(0).uniform(first[files], last[files] - length)
    return pa.table({"uri": train["uri"], "start_s": begin, "end_s": begin + length})


def _share(one_in: int, others: bool = False) -> Callable[[pa.Table], pa.Table]:
    """The training cuts of one file in `one_in`, or of the other files."""

    def chosen(cuts: pa.Table) -> pa.Table:
        train = _train(cuts)
        uris = sorted(set(train["uri"].to_pylist()))
        kept = np.random.default_rng(0).permutation(len(uris))[: max(len(uris) // one_in, 1)]
        is_kept = pc.is_in(train["uri"], pa.array([uris[i] for i in kept]))
        return train.filter(pc.invert(is_kept) if others else is_kept)

    return chosen


LISTS: dict[str, Callable[[pa.Table], pa.Table]] = {
    TRAIN: _train,
    HELD_OUT: lambda cuts: cuts.filter(pc.not_equal(cuts["split"], "train")),
    "anywhere": _anywhere,
    "half": _share(2),
    "other_half": _share(2, others=True),
    "quarter": _share(4),
}
