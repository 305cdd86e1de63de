"""Human actions in video: UCF101, HMDB51 and Kinetics as they are published."""

from __future__ import annotations

import re

from pipeline.errors import UserError
from pipeline.evaluation.datasets.cuts import read_folders
from pipeline.evaluation.datasets.labelled import (
    TEST,
    TRAIN,
    FileTree,
    LabelledMedia,
    ListedExample,
    sides_of_part,
    stem_of,
)
from pipeline.evaluation.datasets.lists import read_lines, read_rows
from pipeline.storage import Location

_SPLITS = ("1", "2", "3")
_HMDB_SIDES = {"0": "", "1": TRAIN, "2": TEST}
_UCF_NAME = re.compile(r"v_(?P<action>.+)_g(?P<group>\d+)_c\d+$")


def read_ucf101(root: Location) -> LabelledMedia:
    """UCF101: ``classInd.txt``, ``trainlist0N.txt``, ``testlist0N.txt`` and the ``.avi`` files.

    Videos of a group (``g07``) are cut from one recording: their source.

    Raises:
        UserError: a list is missing, or a line of it is not as published.
    """
    tree = FileTree(root)
    classes = set()
    for spot, line in read_lines(tree.one("classInd.txt")):
        number, *name = line.split(maxsplit=1)
        if not number.isdecimal() or not name:
            raise spot.mistake(f"{line!r} is not a number and a class")
        classes.update(name)
    sides: dict[str, dict[str, str]] = {}
    for split in _SPLITS:
        for side, prefix in ((TRAIN, "trainlist"), (TEST, "testlist")):
            for spot, line in read_lines(tree.one(f"{prefix}0{split}.txt")):
                path = line.split()[0]
                label, slash, _ = path.partition("/")
                if not slash or label not in classes:
                    raise spot.mistake(
                        f"{line!r} is not <class>/<file> with a class of classInd.txt; are the "
                        "lists from the same release?"
                    )
                if sides.setdefault(path, {}).setdefault(split, side) != side:
                    raise spot.mistake(f"trainlist0{split}.txt has {path} as well")
    examples = []
    for path in sorted(sides):
        label, stem = path.split("/")[0], stem_of(path)
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
        for spot, line in read_lines(root / path):
            name, _, side = line.rpartition(" ")
            if side not in _HMDB_SIDES or not name.strip():
                raise spot.mistake(f"{line!r} is not a file name and 0, 1 or 2")
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


_KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
_KINETICS_SIDES = {
    "train": TRAIN,
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": TEST,
    "": TEST,
}


def read_kinetics(root: Location) -> LabelledMedia:
    """Kinetics: its CSV lists and trimmed files ``<id>_<start>_<end>.*``, or folders alone.

    With lists the files may lie anywhere below `root`. A file named by the id alone counts as the
    whole video; the list gives the seconds. Without lists: ``train/<class>/``, ``val/<class>/``.
    The split ``val`` tests on the validation videos, ``test`` on the test ones.

    Raises:
        UserError: there are neither lists nor folders, or a row of a list is not as published.
    """
    tree = FileTree(root)
    rows = []
    for path in tree.files(".csv"):
        header = [text for _, text in read_lines(root / path)[:1]]
        if header and {*_KINETICS_COLUMNS} <= {name.strip() for name in header[0].split(",")}:
            rows += read_rows(root / path, _KINETICS_COLUMNS)
    if not rows:
        return read_folders(root, kind="kinetics")
    for spot, row in rows:
        if row["split"] not in _KINETICS_SIDES:
            raise spot.mistake(f"the split {row['split']!r} is none of train, val and test")
    used = {_KINETICS_SIDES[row["split"]] for _, row in rows}
    splits = [name for name in ("val", TEST) if name in used]
    if not splits:
        raise UserError(f"the lists in {root} hold training videos only; add val.csv or test.csv")
    examples: dict[tuple[str, str], ListedExample] = {}  # by video and start: lists may overlap
    for spot, row in rows:
        video, label = row["youtube_id"], row.get("label") or None
        start, end = (spot.seconds(row[name]) for name in ("time_start", "time_end"))
        name = f"{video}_{start:06.0f}_{end:06.0f}"
        uri, window = tree.find_cut([name], video, (start, end), folder=label)
        sides = sides_of_part(_KINETICS_SIDES[row["split"]], splits)
        example = ListedExample(name, uri, label, video, sides, window)
        examples.setdefault((video, row["time_start"]), example)
    return LabelledMedia.listed("kinetics", root, examples.values(), splits, splits[:1])
