"""Labelled examples and the clips that stand for each: what every protocol evaluates.

An example is a labelled video, recording or cut, seen as one clip or as several, uniformly spaced
over its window. Each clip is taken as in embedding (centre crop). Their scores are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.clips.indexing import REJECTS, index
from pipeline.clips.sampling import centre_range
from pipeline.clips.table import SCHEMA, ClipTable, append, clip_id, distinct
from pipeline.config import ClipsConfig, Config
from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import LabelledMedia
from pipeline.evaluation.splits import LabelledExamples, check_sides, numbered, sides_of
from pipeline.methods import MODALITIES
from pipeline.storage import Location
from pipeline.telemetry.console import say

_WHOLE_FILE_S = 1e9  # longer than any file: an example is never cut into several
_MIN_S = 0.04  # of an example: one frame at 25 fps


@dataclass(frozen=True)
class Examples(LabelledExamples):
    """Examples with the clips that stand for each."""

    clips: ClipTable  # one row a clip; those of an example follow each other
    example: np.ndarray  # int64 [clips], the example that each clip belongs to
    windows: ClipTable  # one row an example, its whole window: what fine-tuning samples in
    counts: dict[str, int]  # of examples: listed, missing, rejected, unlabelled

    @classmethod
    def of(
        cls,
        windows: ClipTable,
        labelled: tuple[np.ndarray, list[str]],
        sources: pa.ChunkedArray,
        sides: dict[str, np.ndarray],
        seen: tuple[ClipTable, np.ndarray],
        counts: dict[str, int],
    ) -> Examples:
        """`labelled` comes from `numbered`, `seen` from `spread`; `sources` are their names."""
        labels, _ = labelled
        numbers, names = distinct(sources)
        counts = counts | {"unlabelled": int((labels < 0).sum())}
        of = numbers.astype(np.int64), names.to_pylist()
        return cls(*labelled, *of, sides, *seen, windows, counts)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that some clip has."""
        return tuple(m for m in MODALITIES if self.clips.count((m,)))

    @property
    def some_have_both(self) -> bool:
        """Whether some example has every modality."""
        of = [self.example[self.clips.column(f"has_{m}").to_numpy()] for m in MODALITIES]
        return bool(len(np.intersect1d(*of)))


def of_run(clips: ClipTable, place: Location, test_split: str, config: Config, n: int) -> Examples:
    """A run's own labelled clips; their file is their source.

    Args:
        place: folder for the table of clips, where `n`, clips an example, is more than one.
        test_split: see `sides_of`.

    Raises:
        UserError: no clip has a label, or none is on one of the sides.
    """
    labelled = _labelled(clips.column("label"), clips.location)
    sides = {test_split: sides_of(clips, test_split)}
    check_sides(clips, sides[test_split])
    counts = {"listed": len(clips), "missing": 0, "rejected": 0}
    seen = spread(clips, place, config.clips, n)
    return Examples.of(clips, labelled, clips.column("uri"), sides, seen, counts)


def of_dataset(media: LabelledMedia, place: Location, config: Config, n: int) -> Examples:
    """A dataset's examples, probed once and kept in `place`.

    Args:
        place: a folder of this dataset alone (`LabelledMedia.fingerprint`); n: clips an example.

    Raises:
        UserError: no example could be used, or none has a label.
    """
    windows, rejected = _indexed(place) or _index(media, place, config)
    if windows is None:
        raise UserError(
            f"none of the {len(media):,} files of {media.root} can be used; {place / REJECTS} says "
            "why"
        )
    row = windows.column("split").cast(pa.int64())
    chosen = media.table.take(row)
    labelled = _labelled(chosen["label"], media.root)
    sides = {name: sides[row.to_numpy()] for name, sides in media.splits.items()}
    missing = len(media.missing)
    counts = {"listed": len(media) + missing, "missing": missing, "rejected": rejected}
    seen = spread(windows, place / f"clips-{n}", config.clips, n)
    return Examples.of(windows, labelled, chosen["source"], sides, seen, counts)


_Indexed = tuple[ClipTable | None, int]  # one clip an example; how many were rejected


def _indexed(place: Location) -> _Indexed | None:
    """What `_index` made in an earlier evaluation; None where that is missing or damaged."""
    if not (place / "INDEXED").exists():
        return None
    try:
        # The others lost one modality only.
        rejected = (place / REJECTS).read_table(["modality"])["modality"].null_count
        some = bool(list((place / "clips").files(".parquet")))
        return ClipTable.open(place / "clips") if some else None, rejected
    except (UserError, OSError, pa.ArrowException) as error:
        say(f"{place} is damaged ({str(error).splitlines()[0]}): its files are probed again")
        return None


def _index(media: LabelledMedia, place: Location, config: Config) -> _Indexed:
    """Probe a dataset's files; what was probed before a kill is kept and not probed again."""
    for name in ("INDEXED", "clips", "rejects"):
        (place / name).delete()
    cuts, listed = place / "cuts.parquet", media.table
    # The split column carries the row number, by which examples are known again.
    rows = pa.array(range(len(media)), pa.int64()).cast(pa.string())
    columns = listed.select(["uri", "start_s", "end_s", "label"]).append_column("split", rows)
    cuts.write_table(columns)
    settings = config.index.model_copy(update={"window_s": _WHOLE_FILE_S, "min_s": _MIN_S})
    index(cuts.full_uri, place, config.model_copy(update={"index": settings}))
    (place / "INDEXED").write_text("")
    found = _indexed(place)
    assert found is not None
    return found


def _labelled(names: pa.ChunkedArray, place: Location) -> tuple[np.ndarray, list[str]]:
    """See `numbered`; there must be a label."""
    labels, classes = numbered(names)
    if not classes:
        raise UserError(
            f"nothing in {place} has a label, so there is nothing to evaluate against; "
            "name labelled media with --dataset, or index a cuts table with a label column"
        )
    return labels, classes


def clips_of_each(windows: ClipTable, config: ClipsConfig, n: int) -> np.ndarray:
    """int64 [windows]: `n` for every window that is longer than a clip, 1 for the others."""
    length = windows.column("end_s").to_numpy() - windows.column("start_s").to_numpy()
    return np.where(length > config.span_s, n, 1)


def spread(
    windows: ClipTable, place: Location, config: ClipsConfig, n: int
) -> tuple[ClipTable, np.ndarray]:
    """A table of `n` clips a window, kept in `place`, and int64 [clips], the window of each clip.

    Clips are uniformly spaced over their window. A window no longer than a clip is seen once. With
    one clip for every window the table is `windows` itself.
    """
    times = clips_of_each(windows, config, n)
    if (times == 1).all():
        return windows, np.arange(len(windows))
    window = np.repeat(np.arange(len(windows)), times)
    bounds = (windows.column(name).to_numpy() for name in ("start_s", "end_s"))
    centres = np.concatenate([clip_centres(a, b, config, k) for a, b, k in zip(*bounds, times)])
    rows = windows.rows(window, SCHEMA.names)
    starts, ends = centres - config.span_s / 2, centres + config.span_s / 2
    cuts = {
        "start_s": starts,
        "end_s": ends,
        "clip_id": [*map(clip_id, rows["uri"].to_pylist(), starts, ends)],
    }
    columns = {name: cuts.get(name, rows[name]) for name in SCHEMA.names}
    return kept_table(pa.table(columns, schema=SCHEMA), place), window


def kept_table(rows: pa.Table, place: Location) -> ClipTable:
    """A clips table of these rows, kept in `place`: written unless it is there, whole."""
    try:
        kept = ClipTable.open(place)
        if kept.column("clip_id").equals(rows["clip_id"]):
            return kept
    except (UserError, OSError, pa.ArrowException):
        pass
    place.delete()
    append(place, [rows])
    return ClipTable.open(place)


def clip_centres(start_s: float, end_s: float, config: ClipsConfig, n: int) -> np.ndarray:
    """float64 [n]: centres of clips uniformly spaced over a window; one alone is its middle."""
    if n == 1:
        return np.array([(start_s + end_s) / 2])
    return np.linspace(*centre_range(start_s, end_s, config), n)
