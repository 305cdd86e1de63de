"""Readers against trees in the published layout: what is listed, its side, and what is missing."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.evaluation import datasets
from pipeline.evaluation.datasets import LabelledMedia
from pipeline.evaluation.datasets.labelled import (
    TEST,
    TRAIN,
    FileTree,
    ListedExample,
    stem_of,
)
from pipeline.storage import Location
from tests.conftest import shared_media

Tree = Callable[[dict[str, str | None]], Path]


def rows(media: LabelledMedia, split: str) -> list[tuple[str, str | None, str]]:
    """(file, label, side) of every example."""
    names = [uri.rsplit("/", 1)[-1] for uri in media.table["uri"].to_pylist()]
    return list(zip(names, media.table["label"].to_pylist(), media.splits[split].tolist()))


def column(media: LabelledMedia, name: str) -> list:
    return media.table[name].to_pylist()


def test_ucf101(tree: Tree) -> None:
    archery, hands = "v_Archery_g{:02d}_c01.avi", "v_HandStandPushups_g01_c01.avi"
    a, b, c = (f"Archery/{archery.format(g)}" for g in (1, 8, 9))
    listed = f"HandstandPushups/{hands.replace('HandStand', 'Handstand')}"
    lists = {
        "classInd.txt": "3 Archery\n37 HandstandPushups\n",
        "trainlist01.txt": f"{b} 3\n{c} 3\n{listed} 37\n",
        "testlist01.txt": f"{a}\n",
        "trainlist02.txt": f"{a} 3\n{c} 3\n",
        "testlist02.txt": f"{b}\n{listed}\n",
        "trainlist03.txt": f"{a} 3\n{b} 3\n{listed} 37\n",
        "testlist03.txt": f"{c}\n",
    }
    root = tree(
        {f"ucfTrainTestlist/{name}": text for name, text in lists.items()}
        | {f"UCF-101/{a}": None, f"UCF-101/{b}": None, f"UCF-101/HandstandPushups/{hands}": None}
    )
    media = datasets.read(f"ucf101:{root}")
    assert media.default == ("1", "2", "3")
    assert media.missing == (c,)
    assert rows(media, "1") == [
        (archery.format(1), "Archery", "test"),
        (archery.format(8), "Archery", "train"),
        (hands, "HandstandPushups", "train"),
    ]
    assert [side for *_, side in rows(media, "2")] == ["train", "test", "test"]
    assert [side for *_, side in rows(media, "3")] == ["train", "train", "train"]
    assert column(media, "source")[:2] == ["Archery g01", "Archery g08"]
    assert column(media, "start_s") == [None] * 3


def test_hmdb51(tree: Tree) -> None:
    lists = "test_train_splits/testTrainMulti_7030_splits"
    sides = {"1": "120", "2": "012", "3": "211"}
    texts = {
        f"{lists}/{label}_test_split{split}.txt": "".join(
            f"{label}_{n}.avi {side} \n" for n, side in enumerate(numbers)
        )
        for label in ("brush_hair", "wave")
        for split, numbers in sides.items()
    }
    videos = [f"brush_hair/brush_hair_{n}.avi" for n in range(3)] + ["wave/wave_0.avi"]
    media = datasets.read(f"hmdb51:{tree(texts | dict.fromkeys(videos))}")
    assert media.missing == ("wave/wave_1.avi", "wave/wave_2.avi")
    assert [side for *_, side in rows(media, "1")] == ["train", "test", "", "train"]
    assert [side for *_, side in rows(media, "2")] == ["", "train", "test", ""]
    assert [side for *_, side in rows(media, "3")] == ["test", "train", "train", "test"]
    assert column(media, "label") == ["brush_hair"] * 3 + ["wave"]


def test_kinetics_by_its_lists(tree: Tree) -> None:
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    root = tree(
        {
            "annotations/train.csv": head + "abseiling,-abcdefghij,10,20,train,0\n"
            "air drumming,Abcdefghijk,0,10,train,0\n",
            "annotations/validate.csv": head + "abseiling,zbcdefghijk,7,17,validate,1\n",
            "train/-abcdefghij_000010_000020.mp4": None,
            "train/abcdefghijk_000000_000010.mp4": None,  # another id: they differ in case
            "val/zbcdefghijk.mp4": None,
        }
    )
    media = datasets.read(f"kinetics:{root}")
    assert media.default == ("val",)
    assert media.missing == ("Abcdefghijk_000000_000010",)
    assert rows(media, "val") == [
        ("-abcdefghij_000010_000020.mp4", "abseiling", "train"),
        ("zbcdefghijk.mp4", "abseiling", "test"),
    ]
    assert column(media, "start_s") == [None, 7.0]
    assert column(media, "end_s") == [None, 17.0]


def test_kinetics_by_its_folders(tree: Tree) -> None:
    names = ["train/abseiling/a.mp4", "train/yoga/b.mp4", "val/yoga/c.mp4"]
    media = datasets.read(f"kinetics:{tree(dict.fromkeys(names))}")
    assert rows(media, "val") == [
        ("a.mp4", "abseiling", "train"),
        ("b.mp4", "yoga", "train"),
        ("c.mp4", "yoga", "test"),
    ]


def test_esc50_of_real_files_as_published(tmp_path: Path) -> None:
    esc = shared_media("esc")
    (tmp_path / "meta").mkdir()
    shutil.copy(esc / "esc50.csv", tmp_path / "meta")
    shutil.copytree(esc / "audio", tmp_path / "audio")
    with (esc / "esc50.csv").open() as stream:
        listed = list(csv.DictReader(stream))
    (tmp_path / "audio" / listed[3]["filename"]).unlink()
    media = datasets.read(f"esc50:{tmp_path}")
    assert media.default == ("1", "2", "3", "4", "5")
    assert media.missing == (listed[3]["filename"],)
    there = [row for row in listed if row is not listed[3]]
    assert column(media, "label") == [row["category"] for row in there]
    assert column(media, "source") == [row["src_file"] for row in there]
    for fold in media.default:
        official = ["test" if row["fold"] == fold else "train" for row in there]
        assert media.splits[fold].tolist() == official
    assert media.splits["split"].tolist() == [row["split"] for row in there]
    tens = datasets.read(f"esc10:{tmp_path}")
    assert len(tens) + len(tens.missing) == sum(row["esc10"] == "TRUE" for row in listed)


def test_dcase2014(tree: Tree) -> None:
    names = ["scenes_stereo/bus01.wav", "scenes_stereo/tubestation12.wav"]
    tests = ["scenes_stereo_testset/bus01.wav"]
    media = datasets.read(f"dcase2014:{tree(dict.fromkeys(names + tests))}")
    assert rows(media, "1") == [
        ("bus01.wav", "bus", "train"),
        ("tubestation12.wav", "tubestation", "train"),
        ("bus01.wav", "bus", "test"),
    ]
    assert len(set(column(media, "source"))) == 3


def test_vggsound(tree: Tree) -> None:
    text = (
        '---g-f_I2yQ,1,"people marching, loudly",test\n'
        "--0PQM4-hqg,30,waterfall,train\n"
        "--56QUhyDQM,185,duck,train\n"
    )
    root = tree({"vggsound.csv": text, "v/---g-f_I2yQ_000001.mp4": None, "v/--0PQM4-hqg.mp4": None})
    media = datasets.read(f"vggsound:{root}")
    assert media.missing == ("--56QUhyDQM_000185",)
    assert rows(media, "1") == [
        ("---g-f_I2yQ_000001.mp4", "people marching, loudly", "test"),
        ("--0PQM4-hqg.mp4", "waterfall", "train"),
    ]
    assert column(media, "start_s") == [None, 30.0]
    assert column(media, "end_s") == [None, 40.0]


def test_audioset(tree: Tree) -> None:
    head = "# Segments csv created Sun Mar  5 10:54:25 2017\n# num_ytids=2\n"
    head += "# YTID, start_seconds, end_seconds, positive_labels\n"
    root = tree(
        {
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n'
            '1,/m/05zppz,"Male speech, man speaking"\n',
            "balanced_train_segments.csv": head + '--PJHxphWEs, 30.000, 40.000, "/m/09x0r"\n'
            '--aE2O5G5WE, 0.000, 10.000, "/m/09x0r,/m/05zppz"\n',
            "unbalanced_train_segments.csv": head + '--aaaaaaaaa, 5.000, 15.000, "/m/05zppz"\n',
            "eval_segments.csv": head + '--4gqARaEJE, 0.000, 10.000, "/m/05zppz"\n'
            '--zzzzzzzzz, 0.000, 10.000, "/m/05zppz"\n',
            "audio/--PJHxphWEs.mp4": None,
            "audio/Y--aE2O5G5WE.wav": None,
            "audio/--aaaaaaaaa_5000_15000.flac": None,
            "audio/--4gqARaEJE_0.wav": None,
        }
    )
    media = datasets.read(f"audioset:{root}")
    assert media.default == ("balanced",)
    assert media.missing == ("--zzzzzzzzz_0",)
    assert rows(media, "balanced") == [
        ("--PJHxphWEs.mp4", "Speech", "train"),
        ("Y--aE2O5G5WE.wav", None, "train"),
        ("--4gqARaEJE_0.wav", "Male speech, man speaking", "test"),
        ("--aaaaaaaaa_5000_15000.flac", "Male speech, man speaking", ""),
    ]
    assert media.splits["all"].tolist() == ["train", "train", "test", "train"]
    assert column(media, "start_s") == [30.0, None, None, None]
    assert column(media, "labels")[1] == "Speech|Male speech, man speaking"


def test_a_table_with_folds_and_other_names(tree: Tree) -> None:
    text = "path,class,fold,group,take\na.mp4,x,1,g1,A\nb.mp4,y,2,g2,B\nc.mp4,x,2,g2,C\n"
    root = tree({"t.csv": text, "a.mp4": None, "b.mp4": None})
    media = datasets.read(f"csv:{root / 't.csv'}")
    assert media.default == ("1", "2")
    assert media.missing == ("c.mp4",)
    assert rows(media, "1") == [("a.mp4", "x", "test"), ("b.mp4", "y", "train")]
    assert column(media, "source") == ["g1", "g2"]
    assert column(media, "take") == ["A", "B"]


def test_folders_without_sides_are_split_by_a_hash(tree: Tree) -> None:
    root = tree({f"{label}/{n:02d}.mp4": None for label in "ab" for n in range(20)})
    first = datasets.read(f"folders:{root}")
    assert (
        first.splits["split"].tolist() == datasets.read(f"folders:{root}").splits["split"].tolist()
    )
    assert 4 <= first.splits["split"].tolist().count("test") <= 20
    assert set(column(first, "label")) == {"a", "b"}


def test_links_that_lead_round_and_odd_names_stop_no_reader(tree: Tree) -> None:
    root = tree({"a/1.mp4": None, "b/2.mp4": None})
    (root / "a" / "again").symlink_to("..")
    with open(os.fsencode(root) + b"/a/caf\xe9.mp4", "w"):
        pass
    media = datasets.read(f"folders:{root}")
    assert [name for name, *_ in rows(media, "split")] == ["1.mp4", "2.mp4"]


def test_a_reader_of_ones_own(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader and an entry in the table are all that a new dataset takes."""

    def read_numbered(root: Location) -> LabelledMedia:
        """Files named CLASS-NUMBER: even numbers for training."""
        examples, files = [], FileTree(root)
        for path in files.media:
            label, number = stem_of(path).split("-")
            side = TEST if int(number) % 2 else TRAIN
            examples.append(ListedExample(path, files.uri(path), label, path, {"1": side}))
        return LabelledMedia.listed("numbered", root, examples, ["1"])

    monkeypatch.setitem(datasets.KINDS, "numbered", read_numbered)
    root = tree({"a-1.mp4": None, "b-2.mp4": None})
    media = datasets.read(f"numbered:{root}")
    assert rows(media, "1") == [("a-1.mp4", "a", "test"), ("b-2.mp4", "b", "train")]
    assert "numbered   Files named CLASS-NUMBER" in datasets.help_text()


@pytest.mark.parametrize(
    ("named", "files", "words"),
    [
        ("imagenet:{}", {"a.mp4": None}, "kinds are ucf101, hmdb51"),
        ("ucf101", {"a.mp4": None}, "is not KIND:ROOT"),
        ("esc50:{}/nowhere", {"a.mp4": None}, "there are no files in"),
        ("esc50:{}", {"a.mp4": None}, "esc50.csv is nowhere below"),
        ("esc50:{}", {"esc50.csv": "filename,fold\na,1\n"}, "lacks the column(s) category"),
        ("ucf101:{}", {"a.mp4": None}, "classInd.txt is nowhere below"),
        ("hmdb51:{}", {"a.mp4": None}, "brush_hair_test_split1.txt"),
        ("hmdb51:{}", {"wave_test_split1.txt": "a.avi 7\n"}, "is not a file name and 0, 1 or 2"),
        ("dcase2014:{}", {"scenes_stereo/bus01.wav": None}, "found 1 and 0"),
        ("vggsound:{}", {"vggsound.csv": "a,1,b\n"}, "line 1"),
        ("audioset:{}", {"class_labels_indices.csv": "index,mid,display_name\n"}, "must hold"),
        ("csv:{}/t.csv", {"t.csv": "uri,kind\na.mp4,x\n"}, "has no column 'label'"),
        (
            "csv:{}/t.csv",
            {"t.csv": "uri,label,start_s\na.mp4,x,soon\n"},
            "line 2: 'soon' is no number",
        ),
        ("vggsound:{}", {"vggsound.csv": "a,x,b,test\n"}, "line 1: 'x' is no number of seconds"),
        (
            "kinetics:{}",
            {"val.csv": "label,youtube_id,time_start,time_end,split\nwave,abc,0,?,val\n"},
            "val.csv, line 2: '?' is no number of seconds",
        ),
        ("csv:{}/t.csv", {"t.csv": "uri,label\na.mp4,x\n"}, "none of the 1 files"),
        ("csv:{}/none.csv", {"a.mp4": None}, "cannot read"),
    ],
)
def test_mistakes_say_what_and_where(
    tree: Tree, named: str, files: dict[str, str | None], words: str
) -> None:
    root = tree(files)
    with pytest.raises(UserError) as raised:
        datasets.read(named.format(root))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
