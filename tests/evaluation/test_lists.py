"""Lists that are not as published: one line names the file, the line and the mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.evaluation import datasets

Tree = Callable[[dict[str, str | None]], Path]
CLASSES = "1 Archery\n"
UCF = {f"{side}list0{n}.txt": "Archery/a.avi 1\n" for side in ("train", "test") for n in "123"}
UCF |= {"classInd.txt": CLASSES, "Archery/a.mp4": None}
ESC = "filename,fold,target,category,esc10,src_file,take\n1-a.wav,1,0,dog,True,1,A\n"
KINETICS = "label,youtube_id,time_start,time_end,split\n"
AUDIOSET = {
    "class_labels_indices.csv": "index,mid,display_name\n0,/m/1,Speech\n",
    "balanced_train_segments.csv": '# by\n# us\nabc, 0.0, 10.0, "/m/1"\n',
}


@pytest.mark.parametrize(
    ("kind", "files", "words"),
    [
        ("ucf101", UCF | {"classInd.txt": "Archery\n"}, "classInd.txt, line 1: 'Archery' is not a"),
        ("ucf101", UCF | {"classInd.txt": "\n1\tArchery\n2\n"}, "classInd.txt, line 3: '2' is not"),
        (
            "ucf101",
            UCF | {"trainlist01.txt": "Archery/a.avi 1\n\na.avi 1\n"},
            "trainlist01.txt, line 3: 'a.avi 1' is not <class>/<file>",
        ),
        ("ucf101", UCF, "testlist01.txt, line 1: trainlist01.txt has Archery/a.avi as well"),
        (
            "hmdb51",
            {"wave_test_split1.txt": "a.avi 1\n1\n"},
            "wave_test_split1.txt, line 2: '1' is",
        ),
        ("kinetics", {"val.csv": KINETICS + "wave,abc,0\n"}, "val.csv, line 2: 3 fields"),
        ("kinetics", {"val.csv": KINETICS + "wave,abc,0,1,vla\n"}, "line 2: the split 'vla' is"),
        ("kinetics", {"val.csv": KINETICS + "wave,abc,0,nan,val\n"}, "'nan' is no number of sec"),
        ("esc50", {"esc50.csv": ESC + "\n1-b.wav,1\n"}, "esc50.csv, line 4: 2 fields, and the"),
        ("esc50", {"esc50.csv": "\0\0\0"}, "lacks the column(s) filename, fold, category"),
        ("esc10", {"esc50.csv": ESC.replace("esc10", "few")}, "lacks the column(s) esc10"),
        ("esc50", {"esc50.csv": ESC.partition("\n")[0]}, "esc50.csv lists no sound"),
        ("vggsound", {"vggsound.csv": "\na,1,b\n"}, "vggsound.csv, line 2: not id, start"),
        (
            "audioset",
            AUDIOSET | {"eval_segments.csv": '# by\nabc, 0, 10, "/m/2"\n'},
            "eval_segments.csv, line 2: the label '/m/2' is not in",
        ),
        (
            "audioset",
            AUDIOSET | {"eval_segments.csv": "", "class_labels_indices.csv": "mid,name\n"},
            "class_labels_indices.csv lacks the column(s) display_name",
        ),
        ("csv", {"t.csv": "uri,label\na.mp4,x\na.mp4,x,y\n"}, "t.csv, line 3: 3 fields, and the"),
        ("csv", {"t.csv": f"uri,label\n{'x' * 200_000},a\n"}, "t.csv, line 2: field larger"),
        ("csv", {"t.csv": ""}, "t.csv has no rows"),
        (
            "folders",
            {"train/a/1.mp4": None, "test/a/2.mp4": None, "trailer.mp4": None},
            "and 1 files outside of train|val|test/<class>/: trailer.mp4; move them away",
        ),
        (
            "folders",
            {"train/a/1.mp4": None, "test/a/2.mp4": None, "test/3.mp4": None, "b/4.mp4": None},
            "2 files outside of train|val|test/<class>/: b/4.mp4, test/3.mp4",
        ),
        ("folders", {"train/1.mp4": None, "test/2.mp4": None}, "2 files outside of"),
    ],
)
def test_a_mistake_is_named_by_file_and_line(
    tree: Tree, kind: str, files: dict[str, str | None], words: str
) -> None:
    root = tree({"x.mp4": None, **files} if kind != "folders" else files)
    with pytest.raises(UserError) as raised:
        datasets.read(f"{kind}:{root}" + ("/t.csv" if kind == "csv" else ""))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_left_out_is_said(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree({"a/1.mp4": None, "test/2.mp4": None, "readme.mp4": None, "b.mp4": None})
    assert len(datasets.read(f"folders:{root}")) == 2, "one class may have a name such as test"
    assert "2 files lie in no class folder: b.mp4, readme.mp4" in capsys.readouterr().out
    text = "uri,label,split\na/1.mp4,x,train\ntest/2.mp4,y,tset\n"
    (root / "t.csv").write_text(text)
    assert datasets.read(f"csv:{root}/t.csv").splits["split"].tolist()
    assert "1 rows are of no side, by their split tset" in capsys.readouterr().out


def test_times_that_pandas_left_empty_stand_for_the_whole_file(tree: Tree) -> None:
    root = tree({"a.mp4": None})
    row = {"uri": ["a.mp4"], "label": ["x"], "start_s": [float("nan")], "end_s": [float("nan")]}
    pq.write_table(pa.table(row), root / "t.parquet")
    assert datasets.read(f"csv:{root}/t.parquet").table["start_s"].to_pylist() == [None]
