"""Any labelled media: a folder a class, or a table with a row an example."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import (
    TEST,
    TRAIN,
    FileTree,
    LabelledMedia,
    ListedExample,
    is_test_by_hash,
    sides_of_part,
)
from pipeline.evaluation.datasets.lists import Spot, read_rows
from pipeline.storage import Location
from pipeline.telemetry.console import say

_SIDES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": TEST,
    "testing": TEST,
    "eval": TEST,
}
_ALIASES = {
    "uri": ("uri", "path", "file", "filename", "file_name", "video", "audio"),
    "label": ("label", "class", "category", "class_name"),
    "start_s": ("start_s", "start", "time_start", "start_seconds"),
    "end_s": ("end_s", "end", "time_end", "end_seconds"),
    "source": ("source", "group", "src_file", "video_id", "youtube_id"),
}


def read_folders(root: Location, kind: str = "folders") -> LabelledMedia:
    """A folder a class: ``<class>/…``, or ``train|val|test/<class>/…``.

    Without folders for the sides, a hash of the path puts three files in ten on the test side.
    Without ``test``, ``val`` is tested on.

    Raises:
        UserError: no folder holds media, or files lie beside the folders for the sides.
    """
    tree = FileTree(root)
    parts = [path.split("/") for path in tree.media]
    within = [p[0].lower() in _SIDES and len(p) > 2 for p in parts]
    sided = all(within) and bool(within)
    if not sided and _has_sides(parts):
        stray = [path for path, inside in zip(tree.media, within) if not inside]
        raise UserError(
            f"{root} has folders for training and testing, and {len(stray):,} files outside of "
            f"train|val|test/<class>/: {_some(stray)}; move them away"
        )
    found = {_SIDES[p[0].lower()] for p in parts} - {TRAIN} if sided else set()
    splits = tuple(name for name in (TEST, "val") if name in found) or ("split",)
    examples = []
    for path, names in zip(tree.media, parts):
        if len(names) < 2:
            continue
        if sided:
            sides = sides_of_part(_SIDES[names[0].lower()], splits)
        else:
            sides = {"split": TEST if is_test_by_hash(path) else TRAIN}
        label = names[1 if sided else 0]
        examples.append(ListedExample(path, tree.uri(path), label, path, sides))
    classless = [path for path, names in zip(tree.media, parts) if len(names) < 2]
    if classless:
        say(f"{root}: {len(classless):,} files lie in no class folder: {_some(classless)}")
    return LabelledMedia.listed(kind, root, examples, splits, splits[:1])


def _has_sides(parts: list[list[str]]) -> bool:
    """Whether some of the first folders are meant for sides of a split, and not for classes."""
    first = {p[0].lower() for p in parts if len(p) > 1 and p[0].lower() in _SIDES}
    deep = any(p[0].lower() in first and len(p) > 2 for p in parts)
    return deep or len({_SIDES[name] for name in first}) > 1


def _some(names: list[str]) -> str:
    """The first three."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def read_table(place: Location) -> LabelledMedia:
    """A CSV with a header or a Parquet table: a file and a label a row.

    Columns (`_ALIASES` lists other names): ``uri``, ``label`` and perhaps ``start_s``, ``end_s``,
    ``source``, ``split`` (train, val, test) and ``fold``: every fold is tested on once, with the
    others for training. Without ``split`` and ``fold`` three sources in ten are for testing.
    Relative URIs start at the table's folder. Further columns are kept.

    Raises:
        UserError: the table is missing or lacks a column, a row does not fit the header, or a
            time is not a number.
    """
    spots, rows = _rows(place)
    columns = {
        name: next((alias for alias in aliases if alias in rows[0]), None)
        for name, aliases in _ALIASES.items()
    }
    for needed in ("uri", "label"):
        if columns[needed] is None:
            raise UserError(
                f"{place} has no column {needed!r} (its columns: {', '.join(rows[0])}); name one "
                f"of its columns {' or '.join(_ALIASES[needed])}"
            )
    folds = sorted({fold for row in rows if (fold := _text(row.get("fold"))) is not None})
    if len(folds) < 2:
        folds = []
    sided = {_side(row.get("split")) for row in rows}
    own = tuple(name for name in (TEST, "val") if name in sided)
    splits = (*folds, *own) or ("split",)
    told = [t for row in rows if (t := _text(row.get("split"))) and t.lower() not in _SIDES]
    if told:
        names = _some(sorted({*told}))
        say(f"warning: {place}: {len(told):,} rows are of no side, by their split {names}")
    examples = []

    @cache
    def files_in(folder: Location) -> set[str]:
        return {info.base_name for info in folder.children() if info.is_file}

    others = [name for name in rows[0] if name not in columns.values()]
    for spot, row in zip(spots, rows):
        found = {name: _text(row[c]) if c else None for name, c in columns.items()}
        uri = absolute(found["uri"] or "", place)
        file, source = Location.of(uri), found["source"] or uri
        folder = Location(file.uri.rpartition("/")[0], file.query)
        sides = {fold: TEST if _text(row["fold"]) == fold else TRAIN for fold in folds}
        sides |= sides_of_part(_side(row.get("split")), own)
        if splits == ("split",):
            sides = {"split": TEST if is_test_by_hash(source) else TRAIN}
        start, end = (
            None if (text := found[name]) is None else spot.seconds(text)
            for name in ("start_s", "end_s")
        )
        examples.append(
            ListedExample(
                found["uri"] or f"{spot.unit} {spot.number}",
                uri if file.name in files_in(folder) else None,
                found["label"],
                source,
                sides,
                (start, end),
                {name: _text(row[name]) for name in others},
            )
        )
    return LabelledMedia.listed("csv", place, examples, splits, folds or splits[:1])


def _rows(place: Location) -> tuple[list[Spot], list[dict[str, Any]]]:
    if place.name.endswith(".parquet"):
        try:
            listed: list[dict[str, Any]] = place.read_table().to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {place}: {error}") from error
        rows = [(Spot(place, n, "row"), row) for n, row in enumerate(listed, start=1)]
    else:
        rows = [(spot, {**row}) for spot, row in read_rows(place, ())]
    if not rows:
        raise UserError(f"the table {place} has no rows")
    return [spot for spot, _ in rows], [row for _, row in rows]


def _text(value: Any) -> str | None:
    """None also for NaN, which pandas writes where there is nothing."""
    return None if value is None or value == "" or value != value else str(value)


def _side(value: Any) -> str:
    text = _text(value)
    return _SIDES.get(text.lower(), "") if text else ""


def absolute(uri: str, table: Location) -> str:
    """A URI of a table's row; relative ones start at the table's folder."""
    if "://" in uri or uri.startswith("/"):
        return uri
    folder = table.uri.rpartition("/")[0]
    return Location(f"{folder}/{uri}", table.query).full_uri
