"""Lists with random damage: every one ends in examples or in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.evaluation import datasets

UCF = {f"trainlist0{n}.txt": f"Archery/v_Archery_g0{n}_c01.avi 1\n" for n in "123"}
UCF |= {f"testlist0{n}.txt": f"Archery/v_Archery_g1{n}_c01.avi\n" for n in "123"}
ESC = "filename,fold,target,category,esc10,src_file,take\n1-a.wav,1,0,dog,True,1,A\n"
KINETICS = "label,youtube_id,time_start,time_end,split\nwave,abc,0,10,"
LISTS: dict[str, dict[str, str]] = {
    "ucf101": UCF | {"classInd.txt": "1 Archery\n"},
    "hmdb51": {"wave_test_split1.txt": "a.avi 1\nb.avi 2\n"},
    "kinetics": {"val.csv": f"{KINETICS}val\n", "train.csv": f"{KINETICS}train\n"},
    "esc50": {"esc50.csv": f"{ESC}2-a.wav,2,0,dog,True,2,A\n"},
    "vggsound": {"vggsound.csv": 'abc,30,"a, b",train\nabd,3,b,test\n'},
    "audioset": {
        "class_labels_indices.csv": 'index,mid,display_name\n0,/m/1,"Speech, x"\n',
        "balanced_train_segments.csv": '# by\nabc, 0.0, 10.0, "/m/1"\n',
        "eval_segments.csv": '# by\nabd, 0.0, 10.0, "/m/1"\n',
    },
    "csv": {"t.csv": "uri,label,start_s,end_s,split,fold\na.mp4,x,0,1,train,1\nb,y,0,1,test,2\n"},
}
FILES = ("Archery/v_Archery_g01_c01.avi", "a.mp4", "1-a.wav", "abc.mp4", "abd_0.wav")
JUNK = (b"\0", b'"', b",", b"\n", b"\r", b"\xff", b" ", b"nan", b"-1", b"#", b"/", b"9" * 400)


def damaged(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randint(0, len(data)), draw.choice((0, 1, 20))
        repeated = data[max(0, at - 20) : at]
        data = data[:at] + draw.choice((*JUNK, b"", repeated)) + data[at + length :]
    return data


@pytest.mark.parametrize("kind", LISTS)
def test_no_damage_ends_in_a_traceback(
    tree: Callable[[dict[str, str | None]], Path], kind: str
) -> None:
    root = tree({**LISTS[kind], **dict.fromkeys(FILES)})
    draw, fine, told = random.Random(kind), 0, list[str]()
    for _ in range(60):
        name = draw.choice(list(LISTS[kind]))
        (root / name).write_bytes(damaged(LISTS[kind][name].encode(), draw))
        try:
            datasets.read(f"{kind}:{root}" + ("/t.csv" if kind == "csv" else ""))
            fine += 1
        except UserError as error:
            told.append(str(error))
        (root / name).write_text(LISTS[kind][name])
    assert fine
    assert told
    assert not any("\n" in message for message in told)
