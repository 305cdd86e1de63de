"""Every kind of file in a finished run, flipped, cut or gone: found, told, made again alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.rounds import pretrain
from pipeline.storage import Location
from tests.conftest import tiny
from tests.whole_runs import CALM, Calm, results

pytestmark = pytest.mark.usefixtures("local_ray")
SETTINGS = [*CALM, "rounds=2"]
ZERO, ONE, TWO = "rounds/0000/", "rounds/0001/", "rounds/0002/"
# Patterns of files below the run: the first that fits each is damaged. All are files that a run
# depends on; logs (events.jsonl, tensorboard) decide nothing.
KINDS = [
    "config.yaml",
    "LATEST",
    *(ZERO + name for name in ("encoders.safetensors", "metrics.json", "_DONE")),
    *(ONE + name for name in ("encoders.safetensors", "metrics.json", "_DONE")),
    *(TWO + name for name in ("encoders.safetensors", "_DONE")),
    *(
        f"{ONE}updates/0/{name}"
        for name in ("encoders.safetensors", "heads.safetensors", "metrics.json", "curve.parquet")
    ),
    f"{TWO}updates/0/_DONE",
    *(
        f"{where}clusters/{name}/{file}"
        for where, name in ((ZERO, "audio"), (TWO, "video"))
        for file in ("labels/*", "centroids.npy", "transform.npz", "clustering.json", "_DONE")
    ),
    *(f"{TWO}features/audio/{name}" for name in ("part-*", "_written/*", "_DONE")),
]
# The content of features is looked at when they are loaded: by the clustering that is due then.
FEATURES, LOADED_BY = f"{TWO}features/audio/part-*", f"{TWO}clusters/audio"
# Nothing depends on the record of a shard that its folder's seal vouches for, and the pointer and
# the settings are derived: what is gone of these is written again without a word.
SILENT = {("config.yaml", "gone"), ("LATEST", "gone"), ("LATEST", "cut"), ("LATEST", "flipped")}
SILENT |= {(f"{TWO}features/audio/_written/*", how) for how in ("flipped", "cut", "gone")}


def spoil(place: Path, damage: str) -> None:
    data = bytearray(place.read_bytes())
    if damage == "gone":
        place.unlink()
        return
    data[len(data) // 2] ^= 16
    place.write_bytes(data if damage == "flipped" else data[: len(data) // 2])


def again(calm: Calm, place: Path, spoilt: dict[str, str]) -> dict[str, str]:
    """Damage files of a copy of the run and pretrain it again; the files that were damaged."""
    shutil.copytree(str(calm.place), place)
    names = {}
    if FEATURES in spoilt:
        shutil.rmtree(place / LOADED_BY)
    for pattern, damage in spoilt.items():
        found = min(place.glob(pattern))
        spoil(found, damage)
        names[pattern] = str(found)
    pretrain(tiny(f"run={place}", *SETTINGS))
    return names


@pytest.mark.chaos
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_damaged_file(
    kind: str, damage: str, calm: Calm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = results(calm.place)
    outcome = "failed"
    try:
        names = again(calm, tmp_path / "run", {kind: damage})
        told = names[kind] in capsys.readouterr().out
        assert results(Location.of(tmp_path / "run")) == expected
        assert told or (kind, damage) in SILENT
        outcome = "told, same bytes" if told else "same bytes"
    finally:
        if out := os.environ.get("CORRUPTION_RESULTS"):
            with open(out, "a") as stream:
                line = {"kind": kind, "damage": damage, "outcome": outcome}
                stream.write(json.dumps(line) + "\n")


@pytest.mark.chaos
def test_many_damaged_files_at_once(
    calm: Calm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every stage of the run one, each in another way."""
    spoilt = {
        "LATEST": "cut",
        f"{ZERO}clusters/audio/centroids.npy": "flipped",
        f"{ONE}updates/0/heads.safetensors": "gone",
        f"{TWO}features/video/part-*": "flipped",
        f"{TWO}clusters/video/labels/*": "cut",
    }
    names = again(calm, tmp_path / "run", spoilt)
    told = capsys.readouterr().out
    for pattern, name in names.items():
        assert name in told or (pattern, spoilt[pattern]) in SILENT, name
    assert results(Location.of(tmp_path / "run")) == results(calm.place)


@pytest.mark.parametrize(
    ("damage", "words"), [("flipped", "content has changed"), ("cut", "bytes"), ("gone", "is gone")]
)
def test_a_damaged_clips_table_is_told(
    damage: str, words: str, new_run: Callable[[], Location]
) -> None:
    """Nothing can make it again: every label counts on its order."""
    place = new_run()
    spoil(Path(str(place / "clips" / "part-000000.parquet")), damage)
    with pytest.raises(UserError, match=f"clips table is damaged: .*{words}") as raised:
        pretrain(tiny(f"run={place}"))
    assert "\n" not in str(raised.value)
