"""Which clips and modalities a run can learn from, from the clips table alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import methods
from pipeline.clips.table import SCHEMA, ClipTable, append
from pipeline.errors import UserError
from pipeline.evaluation.protocols import evaluate_rounds
from pipeline.learnable import trainable
from pipeline.methods import METHODS, MODALITIES, Method
from pipeline.rounds import pretrain
from pipeline.storage import Location
from tests.conftest import rewrite_clips, tiny


def clips_of(folder: Path, *kinds: tuple[str, str | None]) -> ClipTable:
    """One clip a kind: its modalities, v or a or va, and its split."""
    rows = [
        {
            "clip_id": f"{number:016x}",
            "uri": f"/media/{number}",
            "has_video": "v" in modalities,
            "has_audio": "a" in modalities,
            "split": split,
        }
        for number, (modalities, split) in enumerate(kinds)
    ]
    append(Location.of(folder), [pa.Table.from_pylist(rows, schema=SCHEMA)])
    return ClipTable.open(Location.of(folder))


def method_for(clips: ClipTable, *overrides: str) -> Method:
    config = tiny("clustering.k=1", *overrides)
    return trainable(config, methods.get(config.method), clips)


@pytest.mark.parametrize(
    ("kind", "there", "lacks"), [("v", "video", "audio"), ("a", "audio", "video")]
)
def test_one_modality_alone(
    tmp_path: Path, kind: str, there: str, lacks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = clips_of(tmp_path, (kind, None), (kind, None))
    method = method_for(clips, "method=sdc")
    assert dict(method.clusterings) == {there: (there,)}
    assert [dict(update.heads) for update in method.updates] == [{there: (there,)}]
    assert method.modalities == (there,)
    told = f"no clip has {lacks}: sdc trains the {there} encoder alone"
    assert told in capsys.readouterr().out
    for name in METHODS.keys() - {"sdc"}:
        words = f"has {lacks}, which method={name} learns from; with {there} alone method=sdc would"
        with pytest.raises(UserError, match=words):
            method_for(clips, f"method={name}")
    with pytest.raises(UserError, match=f"k=3 exceeds the 2 clips of .* that have {there}"):
        method_for(clips, "method=sdc", "clustering.k=3")


def test_video_beside_audio_is_not_video_with_audio(tmp_path: Path) -> None:
    """A mute .mp4 beside a .wav, as people extract sound."""
    clips = clips_of(tmp_path, ("v", None), ("a", None), ("v", None))
    assert method_for(clips, "method=sdc") == METHODS["sdc"]
    for name in METHODS.keys() - {"sdc"}:
        with pytest.raises(UserError, match=r"has both .*: 2 have video alone, 1 audio alone"):
            method_for(clips, f"method={name}")


def test_only_clips_of_the_wanted_splits_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = clips_of(tmp_path, ("va", "train"), ("v", "val"), ("va", "test"), ("va", None))
    assert clips.in_splits(()).tolist() == [True] * 4
    assert clips.in_splits(("train", "val")).tolist() == [True, True, False, False]
    method_for(clips)
    assert not capsys.readouterr().out
    method_for(clips, "clips.split=train")
    assert "1 of 4 clips are of the split train: the others are" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"k=2 exceeds the 1 clips of .* that have audio"):
        method_for(clips, "clips.split=[train,val]", "clustering.k=2")
    with pytest.raises(UserError, match=r"no clip of .* has audio"):
        method_for(clips, "clips.split=val")
    words = r"is of the split tset \(clips.split\); its column split holds test, train, val"
    with pytest.raises(UserError, match=words):
        method_for(clips, "clips.split=tset")


@pytest.mark.chaos
@pytest.mark.parametrize("kinds", [("audio",), ("video", "audio")], ids=["mute", "mute or blind"])
def test_a_whole_run_of_clips_with_one_modality_each(
    new_run: Callable[[], Location], kinds: tuple[str, ...]
) -> None:
    """Mute videos alone; and mute ones beside files of sound."""
    place = new_run()
    table = (place / "clips" / "part-000000.parquet").read_table()
    for number, modality in enumerate(kinds):
        name = f"has_{modality}"
        has = np.arange(len(table)) % len(kinds) != number
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(has))
    rewrite_clips(place, table)
    run = pretrain(tiny(f"run={place}", "method=sdc"))
    there = [m for m in MODALITIES if ClipTable.open(run.clips).count((m,))]
    metrics = run.round(1).metrics.read_json()
    losses = metrics["updates"][0]["epochs"][-1]
    assert {n for n in losses if n.startswith("loss_")} == {f"loss_{m}_{m}" for m in there}
    report = evaluate_rounds(run, [0, 1], "test")
    assert {row["modality"] for row in report["results"]} == {*there}
