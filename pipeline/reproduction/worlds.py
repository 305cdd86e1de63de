"""Where a study's clips come from: lists of cuts to learn from and to test on.

    OUT/<world>/cuts/<list>.parquet     uri, start_s, end_s, label, split and the world's others
    OUT/<world>/clips/<list>/           the list, indexed
    OUT/<world>/store/<list>-<digest>/  its clips, decoded once, where the settings ask for it

No encoder ever learns from a held-out cut, with or without labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

import pipeline
from pipeline import settings, synthetic
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
    others: tuple[str, ...] = ()  # folders of media that have nothing to do with it

    def has(self, name: str) -> bool:
        """Whether there is what the list is made of."""
        return bool(self.others) or name not in DILUTED

    def list_of(self, name: str, out: Location) -> Location:
        """A list of cuts, written if it is not there: see `LISTS` and `DILUTED`."""
        place = out / self.name / "cuts" / f"{name}.parquet"
        if not place.exists():
            cuts = self.cuts(out / self.name)
            if name in DILUTED:
                found = diluted(_anywhere(cuts), self._clips_of_others(out), DILUTED[name])
            else:
                found = LISTS[name](cuts)
            place.write_table(found)
        return place

    def _clips_of_others(self, out: Location) -> pa.Table:
        """All clips of the other folders: ``uri``, ``start_s``, ``end_s``."""
        found = []
        for number, folder in enumerate(self.others):
            place = out / self.name / "clips" / f"others-{number}"
            index(folder, place, settings.load([*self.settings, f"run={place.full_uri}"]))
            clips = ClipTable.open(place / "clips")
            found.append(clips.rows(np.arange(len(clips)), ["uri", "start_s", "end_s"]))
        return pa.concat_tables(found)

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


def generated(seed: int, files: int, classes: int = 8, places: int = 8, **dials: float) -> World:
    """The generated world (`pipeline.synthetic`), another one for every seed; written once.

    Args:
        dials: others of `synthetic.SyntheticWorld`.
    """
    given: dict[str, Any] = {"difficulty": 0.0, **dials}
    kind = synthetic.SyntheticWorld(seed=seed, classes=classes, places=places, **given)
    turned = "".join(f"-{name}{value:g}" for name, value in dials.items())
    name = f"generated-{files}x{classes}x{places}{turned}-{seed}"

    def cuts(folder: Location) -> pa.Table:
        return _read(Location.of(synthetic.write_world(Path(folder.path) / "media", files, kind)))

    return World(name, (_config("demo"),), ("label",), cuts)


def words(table: str, others: Sequence[str] = ()) -> World:
    """Words that a talker says: a cuts table with the columns label (the word), slot (its place in
    the sentence) and split (by sentence). `others`: folders of unrelated media."""
    # Begins as the paper does where a trial does not say otherwise.
    suited = (_config("words"), "clustering.first=random")
    cuts = Location.of(table)
    return World("words", suited, ("label", "slot"), lambda _: _read(cuts), tuple(others))


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


def diluted(cuts: pa.Table, others: pa.Table, share: float) -> pa.Table:
    """These cuts, a share of which gives way to cuts of the same lengths of other clips."""
    rng = np.random.default_rng(1)
    order = rng.permutation(len(cuts))
    gone, kept = np.split(order, [round(share * len(cuts))])
    length = pc.subtract(cuts["end_s"], cuts["start_s"]).to_numpy()[gone]
    drawn = others.take(rng.choice(len(others), len(gone), replace=len(others) < len(gone)))
    room = pc.subtract(drawn["end_s"], drawn["start_s"]).to_numpy() - length
    begin = drawn["start_s"].to_numpy() + rng.uniform(0, np.maximum(room, 0))
    columns = {"uri": drawn["uri"], "start_s": begin, "end_s": begin + length}
    return pa.concat_tables([cuts.take(np.sort(kept)), pa.table(columns, cuts.schema)])


LISTS: dict[str, Callable[[pa.Table], pa.Table]] = {
    TRAIN: _train,
    HELD_OUT: lambda cuts: cuts.filter(pc.not_equal(cuts["split"], "train")),
    "anywhere": _anywhere,
    "half": _share(2),
    "other_half": _share(2, others=True),
    "quarter": _share(4),
}
# Cuts anywhere, so much of them replaced by unrelated media (`World.others`).
DILUTED = {"quarter_others": 1 / 4, "half_others": 1 / 2}
