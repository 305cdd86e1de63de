"""Human actions in video: UCF101, HMDB51 and Kinetics as they are published."""

from __future__ import annotations

import csv
import re

from pipeline.errors import UserError
from pipeline.evaluation.datasets.cuts import read_folders
from pipeline.evaluation.datasets.labelled import (
    TEST,
    TRAIN,
    FileTree,
    LabelledMedia,
    ListedExample,
    read_lines,
    seconds,
    sides_of_part,
    stem_of,
)
from pipeline.storage import Location

_SPLITS = ("1", "2", "3")
_HMDB_SIDES = {"0": "", "1": TRAIN, "2": TEST}
_UCF_NAME = re.compile(r"v_(?P<action>.+)_g(?P<group>\d+)_c\d+$")


def read_ucf101(root: Location) -> LabelledMedia:
    """UCF101: ``classInd.txt``, ``trainlist0N.txt``, ``testlist0N.txt`` and the ``.avi`` files.

    Videos of a group (``g07``) are cut from one recording: their source.

    Raises:
        UserError: a list is missing, or names a class that ``classInd.txt`` lacks.
    """
    tree = FileTree(root)
    numbered = dict(line.split(maxsplit=1) for line in read_lines(tree.one("classInd.txt")))
    classes = set(numbered.values())
    sides: dict[str, dict[str, str]] = {}
    for split in _SPLITS:
        for side, prefix in ((TRAIN, "trainlist"), (TEST, "testlist")):
            for line in read_lines(tree.one(f"{prefix}0{split}.txt")):
                sides.setdefault(line.split()[0], {})[split] = side
    examples = []
    for path in sorted(sides):
        label, stem = path.split("/")[0], stem_of(path)
        if label not in classes:
            raise UserError(
                f"the lists in {root} name {path}, whose class is not in classInd.txt; "
                "are they from the same release?"
            )
        named = _UCF_NAME.match(stem)
        source = f"{label} g{named['group']}" if named else stem
        # The lists of some releases write HandstandPushups where the files have HandStandPushups.
        uri = tree.find(stem, folder=label, fold_case=True)
        examples.append(ListedExample(path, uri, label, source, sides[path]))
    return LabelledMedia.listed("ucf101", root, examples, _SPLITS)


def read_hmdb51(root: Location) -> LabelledMedia:
    """HMDB51: ``<class>_test_splitN.txt`` (1 train, 2 test, 0 neither) and the ``.avi`` files.

    The films that the videos were cut from are not published, so each video is its own source.

    Raises:
        UserError: there are no such lists, or a line is not a name and 0, 1 or 2.
    """
    tree = FileTree(root)
    sides: dict[tuple[str, str], dict[str, str]] = {}
    for path in tree.files(".txt"):
        named = re.fullmatch(r"(.+)_test_split([123])\.txt", path.rsplit("/", 1)[-1])
        if named is None:
            continue
        label, split = named.groups()
        for line in read_lines(root / path):
            name, _, side = line.rpartition(" ")
            if side not in _HMDB_SIDES:
                raise UserError(f"{root / path}: {line!r} is not a file name and 0, 1 or 2")
            sides.setdefault((label, name.strip()), {})[split] = _HMDB_SIDES[side]
    if not sides:
        raise UserError(
            f"there is no list such as brush_hair_test_split1.txt below {root}; unpack "
            "test_train_splits.rar there"
        )
    examples = []
    for (label, name), by_split in sorted(sides.items()):
        uri, path = tree.find(stem_of(name), folder=label), f"{label}/{name}"
        examples.append(ListedExample(path, uri, label, path, by_split))
    return LabelledMedia.listed("hmdb51", root, examples, _SPLITS)


_KINETICS_COLUMNS = {"label", "youtube_id", "time_start", "time_end", "split"}
_KINETICS_SIDES = {"train": TRAIN, "val": "val", "validate": "val", "validation": "val"}


def read_kinetics(root: Location) -> LabelledMedia:
    """Kinetics: its CSV lists and trimmed files ``<id>_<start>_<end>.*``, or folders alone.

    With lists the files may lie anywhere below `root`. A file named by the id alone counts as the
    whole video; the list gives the seconds. Without lists: ``train/<class>/``, ``val/<class>/``.
    The split ``val`` tests on the validation videos, ``test`` on the test ones.

    Raises:
        UserError: there are neither lists nor folders.
    """
    tree = FileTree(root)
    tables = []
    for path in tree.files(".csv"):
        rows = list(csv.DictReader(read_lines(root / path)))
        if rows and _KINETICS_COLUMNS - {"label"} <= rows[0].keys():
            tables.append((root / path, rows))
    if not tables:
        return read_folders(root, kind="kinetics")
    used = {_KINETICS_SIDES.get(row["split"], TEST) for _, rows in tables for row in rows}
    splits = [name for name in ("val", TEST) if name in used]
    if not splits:
        raise UserError(f"the lists in {root} hold training videos only; add val.csv or test.csv")
    examples: dict[tuple[str, str], ListedExample] = {}  # by video and start: lists may overlap
    for place, rows in tables:
        for number, row in enumerate(rows, start=1):
            video, label = row["youtube_id"], row.get("label") or None
            start, end = (seconds(row[n], place, number) for n in ("time_start", "time_end"))
            name = f"{video}_{start:06.0f}_{end:06.0f}"
            uri, window = tree.find_cut([name], video, (start, end), folder=label)
            sides = sides_of_part(_KINETICS_SIDES.get(row["split"], TEST), splits)
            example = ListedExample(name, uri, label, video, sides, window)
            examples.setdefault((video, row["time_start"]), example)
    return LabelledMedia.listed("kinetics", root, examples.values(), splits, splits[:1])
