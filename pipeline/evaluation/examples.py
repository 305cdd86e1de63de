"""Labelled examples and the clips that stand for each: what every protocol evaluates.

An example is what has a label: a video, a recording, a cut. It is seen as one clip or as several,
uniformly spaced over its window, each taken as in embedding (centre crop); what a classifier
says of them is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.indexing import REJECTS, index
from pipeline.clips.sampling import centre_range
from pipeline.clips.table import SCHEMA, ClipTable, clip_id
from pipeline.config import ClipsConfig, Config
from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import TEST, TRAIN, LabelledMedia, is_test_by_hash
from pipeline.methods import MODALITIES
from pipeline.storage import Location

_WHOLE_FILE_S = 1e9  # longer than any file: an example is never cut into several
_MIN_S = 0.04  # of an example; a picture at 25 fps


@dataclass(frozen=True)
class Examples:
    """
    Attributes:
        clips: one row a clip; those of an example follow each other.
        example: int64 [clips], the example that each clip belongs to.
        labels: int64 [examples], -1 where there is none; classes: the labels' names.
        sources: int64 [examples], what an example was cut from.
        splits: name → ``train``, ``test`` or empty, object [examples].
        windows: the examples' whole windows, one row an example: what fine-tuning samples in.
        counts: of examples: listed, missing, rejected, …
    """

    clips: ClipTable
    example: np.ndarray
    labels: np.ndarray
    classes: list[str]
    sources: np.ndarray
    source_names: list[str]
    splits: dict[str, np.ndarray]
    windows: ClipTable
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that some clip has."""
        return tuple(m for m in MODALITIES if self.clips.count((m,)))

    def sides(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Labelled training and test examples of a split, int64 each.

        Raises:
            UserError: a side is empty, or something lies on both sides.
        """
        known = self.labels >= 0
        train = np.flatnonzero((self.splits[split] == TRAIN) & known)
        test = np.flatnonzero((self.splits[split] == TEST) & known)
        if not len(train) or not len(test):
            raise UserError(
                f"split {split!r} has {len(train):,} labelled training and {len(test):,} test "
                f"examples, and both are needed; splits are {', '.join(self.splits)}"
            )
        shared = np.intersect1d(self.sources[train], self.sources[test])
        if len(shared):
            named = ", ".join(self.source_names[s] for s in shared[:3])
            raise UserError(
                f"split {split!r} has {len(shared):,} source videos on both its training and its "
                f"test side ({named}{', …' if len(shared) > 3 else ''}), which would reward "
                "memory; correct the lists or name another split with --fold"
            )
        return train, test


def of_run(clips: ClipTable, place: Location, test_split: str, config: Config, n: int) -> Examples:
    """A run's own labelled clips; their file is their source.

    Args:
        place: folder for the table of clips, where an example is seen as several.
        test_split: the value of the split column to test on; a table without splits is split by
            a hash of the files' URIs.
        n: clips an example.

    Raises:
        UserError: no clip has a label.
    """
    uris = clips.column("uri").combine_chunks().dictionary_encode()
    names = uris.dictionary.to_pylist()
    sources = uris.indices.to_numpy().astype(np.int64)
    side = sides_of(clips, test_split)
    labels, classes = _numbered(clips.column("label").combine_chunks(), clips.location)
    seen, example = spread(clips, place, config.clips, n)
    counts = {"listed": len(clips), "missing": 0, "rejected": 0}
    return Examples(
        clips=seen,
        example=example,
        labels=labels,
        classes=classes,
        sources=sources,
        source_names=names,
        splits={test_split: side},
        windows=clips,
        counts=counts | {"unlabelled": int((labels < 0).sum())},
    )


def sides_of(clips: ClipTable, test_split: str) -> np.ndarray:
    """``train``, ``test`` or empty, object [N]: by the split column; by a hash of the file's URI
    where nothing stands in it."""
    given = clips.column("split").to_numpy(zero_copy_only=False)
    if any(side is not None for side in given):
        sides = np.where(given == "train", TRAIN, np.where(given == test_split, TEST, ""))
    else:
        uris = clips.column("uri").to_pylist()
        test = {uri: is_test_by_hash(uri) for uri in set(uris)}
        sides = np.array([TEST if test[uri] else TRAIN for uri in uris])
    return sides.astype(object)


def of_dataset(media: LabelledMedia, place: Location, config: Config, n: int) -> Examples:
    """A dataset's examples, probed once and kept in `place`.

    Args:
        place: a folder of this dataset alone (`LabelledMedia.fingerprint`).
        n: clips an example.

    Raises:
        UserError: no example could be used, or none has a label.
    """
    if not (place / "INDEXED").exists():
        # What was probed before a kill is kept in scratch/ and not probed again.
        (place / "clips").delete()
        (place / "rejects").delete()
        rows = [str(number) for number in range(len(media))]
        cuts = media.table.select(["uri", "start_s", "end_s", "label"])
        # The split column carries the row number, by which examples are known again.
        (place / "cuts.parquet").write_table(cuts.append_column("split", pa.array(rows)))
        settings = config.index.model_copy(update={"window_s": _WHOLE_FILE_S, "min_s": _MIN_S})
        index(
            (place / "cuts.parquet").full_uri, place, config.model_copy(update={"index": settings})
        )
        (place / "INDEXED").write_text("")
    rejected = len((place / REJECTS).read_table(["uri"]))
    if not list((place / "clips").files(".parquet")):
        raise UserError(
            f"none of the {len(media):,} files of {media.root} can be used; {place / REJECTS} says "
            "why"
        )
    windows = ClipTable.open(place / "clips")
    row = np.array([int(number) for number in windows.column("split").to_pylist()])
    chosen = media.table.take(pa.array(row))
    labels, classes = _numbered(chosen["label"].combine_chunks(), media.root)
    sources = chosen["source"].combine_chunks().dictionary_encode()
    seen, example = spread(windows, place / f"clips-{n}", config.clips, n)
    return Examples(
        clips=seen,
        example=example,
        labels=labels,
        classes=classes,
        sources=sources.indices.to_numpy().astype(np.int64),
        source_names=sources.dictionary.to_pylist(),
        splits={name: sides[row] for name, sides in media.splits.items()},
        windows=windows,
        counts={
            "listed": len(media) + len(media.missing),
            "missing": len(media.missing),
            "rejected": rejected,
            "unlabelled": int((labels < 0).sum()),
        },
    )


def _numbered(labels: pa.Array, place: Location) -> tuple[np.ndarray, list[str]]:
    """int64 [n] (-1: none) and the names, in alphabetical order."""
    classes = sorted({name for name in labels.to_pylist() if name is not None})
    if not classes:
        raise UserError(
            f"nothing in {place} has a label, so there is nothing to evaluate against; "
            "name labelled media with --dataset, or index a cuts table with a label column"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(name, -1) for name in labels.to_pylist()], np.int64), classes


def clips_of_each(windows: ClipTable, config: ClipsConfig, n: int) -> np.ndarray:
    """int64 [windows]: `n` for every window that is longer than a clip, 1 for the others."""
    length = windows.column("end_s").to_numpy() - windows.column("start_s").to_numpy()
    return np.where(length > config.span_s, n, 1)


def spread(
    windows: ClipTable, place: Location, config: ClipsConfig, n: int
) -> tuple[ClipTable, np.ndarray]:
    """A clips table with `n` clips for every window, uniformly spaced from its first to its last.

    A window no longer than a clip is seen once. With one clip for each it is `windows` itself.

    Returns:
        The table, kept in `place`, and int64 [clips], the window of each clip.
    """
    start = windows.column("start_s").to_numpy()
    end = windows.column("end_s").to_numpy()
    times = clips_of_each(windows, config, n)
    if (times == 1).all():
        return windows, np.arange(len(windows))
    window = np.repeat(np.arange(len(windows)), times)
    if not (place / "part-000000.parquet").exists():
        centres = np.concatenate(
            [clip_centres(a, b, config, k) for a, b, k in zip(start, end, times)]
        )
        half = config.span_s / 2
        rows = windows.rows(window, SCHEMA.names)
        columns: dict[str, Any] = {name: rows[name] for name in SCHEMA.names}
        columns["clip_index"] = pa.array(np.arange(len(window)), pa.int64())
        columns["start_s"], columns["end_s"] = centres - half, centres + half
        columns["clip_id"] = [
            clip_id(uri, c - half, c + half) for uri, c in zip(rows["uri"].to_pylist(), centres)
        ]
        (place / "part-000000.parquet").write_table(pa.table(columns, schema=SCHEMA))
    return ClipTable.open(place), window


def clip_centres(start_s: float, end_s: float, config: ClipsConfig, n: int) -> np.ndarray:
    """float64 [n]: centres of clips uniformly spaced over a window; one alone is its middle."""
    if n == 1:
        return np.array([(start_s + end_s) / 2])
    return np.linspace(*centre_range(start_s, end_s, config), n)
