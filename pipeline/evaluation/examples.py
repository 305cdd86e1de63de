"""Labelled examples and the clips that stand for each: what every protocol evaluates.

An example is what has a label: a video, a recording, a cut. It is seen as one clip or as several,
uniformly spaced over its window, each taken as in embedding (centre crop); the
scores that a classifier gives them are averaged.
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
from pipeline.evaluation.datasets.labelled import LabelledMedia
from pipeline.evaluation.splits import LabelledExamples, check_sides, numbered, sides_of
from pipeline.methods import MODALITIES
from pipeline.storage import Location

_WHOLE_FILE_S = 1e9  # longer than any file: an example is never cut into several
_MIN_S = 0.04  # of an example: one frame at 25 fps


@dataclass(frozen=True)
class Examples(LabelledExamples):
    """Examples with the clips that stand for each.

    Attributes:
        clips: one row a clip; those of an example follow each other.
        example: int64 [clips], the example that each clip belongs to.
        windows: the examples' whole windows, one row an example: what fine-tuning samples in.
        counts: of examples: listed, missing, rejected, unlabelled.
    """

    clips: ClipTable
    example: np.ndarray
    windows: ClipTable
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that some clip has."""
        return tuple(m for m in MODALITIES if self.clips.count((m,)))


def of_run(clips: ClipTable, place: Location, test_split: str, config: Config, n: int) -> Examples:
    """A run's own labelled clips; their file is their source.

    Args:
        place: folder for the table of clips, where an example is seen as several.
        test_split: see `sides_of`.
        n: clips an example.

    Raises:
        UserError: no clip has a label, or none is on one of the sides.
    """
    uris = clips.column("uri").combine_chunks().dictionary_encode()
    labels, classes = numbered(clips.column("label").combine_chunks(), clips.location)
    sides = sides_of(clips, test_split)
    check_sides(clips, sides)
    seen, example = spread(clips, place, config.clips, n)
    counts = {"listed": len(clips), "missing": 0, "rejected": 0}
    return Examples(
        clips=seen,
        example=example,
        labels=labels,
        classes=classes,
        sources=uris.indices.to_numpy().astype(np.int64),
        source_names=uris.dictionary.to_pylist(),
        sides={test_split: sides},
        windows=clips,
        counts=counts | {"unlabelled": int((labels < 0).sum())},
    )


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
    labels, classes = numbered(chosen["label"].combine_chunks(), media.root)
    sources = chosen["source"].combine_chunks().dictionary_encode()
    seen, example = spread(windows, place / f"clips-{n}", config.clips, n)
    return Examples(
        clips=seen,
        example=example,
        labels=labels,
        classes=classes,
        sources=sources.indices.to_numpy().astype(np.int64),
        source_names=sources.dictionary.to_pylist(),
        sides={name: sides[row] for name, sides in media.splits.items()},
        windows=windows,
        counts={
            "listed": len(media) + len(media.missing),
            "missing": len(media.missing),
            "rejected": rejected,
            "unlabelled": int((labels < 0).sum()),
        },
    )


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
