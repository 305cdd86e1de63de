"""Sound: ESC-50, the DCASE scenes, AudioSet and VGGSound as they are published."""

from __future__ import annotations

import re

from pipeline.errors import UserError
from pipeline.evaluation.datasets.labelled import (
    TEST,
    TRAIN,
    FileTree,
    LabelledMedia,
    ListedExample,
    stem_of,
)
from pipeline.evaluation.datasets.lists import read_fields, read_rows
from pipeline.storage import Location

_ESC_COLUMNS = ("filename", "fold", "category", "src_file")
_DCASE_SIDES = {"scenes_stereo_testset": TEST, "scenes_stereo": TRAIN}


def read_esc50(root: Location, only_esc10: bool = False) -> LabelledMedia:
    """ESC-50: ``meta/esc50.csv`` and ``audio/``; five folds, each tested on once.

    A subset's own column ``split`` (train, test) becomes a further split of that name.

    Raises:
        UserError: ``esc50.csv`` is missing, lacks columns or has a row that does not fit them.
    """
    tree = FileTree(root)
    place = tree.one("esc50.csv")
    needed = (*_ESC_COLUMNS, "esc10") if only_esc10 else _ESC_COLUMNS
    rows = [row for _, row in read_rows(place, needed)]
    if only_esc10:
        rows = [row for row in rows if row["esc10"].lower() == "true"]
    if not rows:
        raise UserError(f"{place} lists no sound")
    folds = tuple(sorted({row["fold"] for row in rows}))
    own = ("split",) if "split" in rows[0] else ()
    further = ("fold", "target", "esc10", "take")
    kept: list[str] = [name for name in further if name in rows[0]]
    examples = []
    for row in rows:
        sides = {fold: TEST if row["fold"] == fold else TRAIN for fold in folds}
        if own:
            sides["split"] = row["split"] if row["split"] in (TRAIN, TEST) else ""
        name, label, source = row["filename"], row["category"], row["src_file"]
        others = {column: row[column] for column in kept}
        uri = tree.find(stem_of(name))
        examples.append(ListedExample(name, uri, label, source, sides, others=others))
    kind = "esc10" if only_esc10 else "esc50"
    return LabelledMedia.listed(kind, root, examples, (*folds, *own), default=folds)


def read_esc10(root: Location) -> LabelledMedia:
    """The ten classes of ESC-50 that are ESC-10."""
    return read_esc50(root, only_esc10=True)


def read_dcase2014(root: Location) -> LabelledMedia:
    """The scenes of the D-CASE challenge, which the literature calls DCASE2014.

    ``scenes_stereo/`` holds the 100 training recordings, ``scenes_stereo_testset/`` the 100 test
    ones, 30 s each, named by class and a two-digit number: ``busystreet03.wav``.

    Raises:
        UserError: one of the folders is missing or holds no such file.
    """
    tree = FileTree(root)
    examples = []
    counts = {TRAIN: 0, TEST: 0}
    for path in tree.media:
        folders = path.split("/")[:-1]
        side = next((side for name, side in _DCASE_SIDES.items() if name in folders), None)
        if side is None:
            continue
        named = re.fullmatch(r"([a-z]+)\d\d", stem_of(path))
        if named is None:
            raise UserError(f"{root / path} is not named by its class and two digits")
        counts[side] += 1
        # Recorded separately: bus01 of one set is not bus01 of the other.
        source = f"{side} {stem_of(path)}"
        examples.append(ListedExample(path, tree.uri(path), named[1], source, {"1": side}))
    if not all(counts.values()):
        raise UserError(
            f"{root} must hold the folders scenes_stereo and scenes_stereo_testset with the "
            f"training and the test recordings; found {counts[TRAIN]} and {counts[TEST]}"
        )
    return LabelledMedia.listed("dcase2014", root, examples, ["1"])


def read_vggsound(root: Location) -> LabelledMedia:
    """VGGSound: ``vggsound.csv`` (id, start, label, train or test; no header) and 10 s files.

    Files are named ``<id>_<start, six digits>.*``. One named by the id alone counts as the whole
    video, of which the ten seconds from the start are used.

    Raises:
        UserError: the list is missing or a line does not have these four fields.
    """
    tree = FileTree(root)
    place = tree.one("vggsound.csv")
    examples = []
    for spot, row in read_fields(place):
        if len(row) != 4 or row[3] not in (TRAIN, TEST):
            raise spot.mistake("not id, start, label and train or test")
        video, start, label, side = row[0], spot.seconds(row[1]), row[2], row[3]
        name = f"{video}_{start:06.0f}"
        uri, window = tree.find_cut([name], video, (start, start + 10.0))
        examples.append(ListedExample(name, uri, label, video, {"1": side}, window))
    return LabelledMedia.listed("vggsound", root, examples, ["1"])


_AUDIOSET_LISTS = {
    "balanced_train_segments.csv": "balanced",
    "unbalanced_train_segments.csv": "unbalanced",
    "eval_segments.csv": "eval",
}


def read_audioset(root: Location) -> LabelledMedia:
    """AudioSet: the ``*_segments.csv`` lists, ``class_labels_indices.csv``, and segments' files.

    A segment's file is ``<id>_<start>*`` (seconds with or without leading zeros, or milliseconds)
    or ``Y<id>.*``, already cut; ``<id>.*`` counts as the whole video. The split ``balanced`` trains
    on the balanced list, ``all`` on the unbalanced one as well. Most segments have several labels
    (column ``labels``, joined by ``|``). Protocols choose one class, so their ``label`` is null.

    Raises:
        UserError: lists are missing, or name a label that the index of labels lacks.
    """
    tree = FileTree(root)
    index = read_rows(tree.one("class_labels_indices.csv"), ("mid", "display_name"))
    names = {row["mid"]: row["display_name"] for _, row in index}
    lists = {
        part: path
        for path in tree.files("_segments.csv")
        if (part := _AUDIOSET_LISTS.get(path.rsplit("/", 1)[-1]))
    }
    if "eval" not in lists or len(lists) < 2:
        raise UserError(
            f"{root} must hold eval_segments.csv and balanced_train_segments.csv or "
            f"unbalanced_train_segments.csv; found {', '.join(sorted(lists.values())) or 'none'}"
        )
    splits = ("balanced", "all") if "balanced" in lists else ("all",)
    examples = []
    for part, path in sorted(lists.items()):
        for spot, row in read_fields(root / path, comment="#"):
            if len(row) != 4:
                raise spot.mistake("not id, start, end and labels")
            video, begin, end, mids = row
            try:
                labels = [names[mid] for mid in mids.split(",")]
            except KeyError as error:
                raise spot.mistake(
                    f"the label {error} is not in class_labels_indices.csv"
                ) from None
            start, stop = spot.seconds(begin), spot.seconds(end)
            name, stem = f"{video}_{start:.0f}", f"{video}_{start * 1000:.0f}"
            stems = (f"{stem}_{stop * 1000:.0f}", f"{video}_{start:06.0f}", stem, f"Y{video}")
            ended = (f"{name}_{stop:.0f}", name)
            uri, window = tree.find_cut((*stems, *ended), video, (start, stop))
            side = TEST if part == "eval" else TRAIN
            sides = {"balanced": "" if part == "unbalanced" else side, "all": side}
            label, others = labels[0] if len(labels) == 1 else None, {"labels": "|".join(labels)}
            examples.append(ListedExample(name, uri, label, video, sides, window, others))
    return LabelledMedia.listed("audioset", root, examples, splits, splits[:1])
