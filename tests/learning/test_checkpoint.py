from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.learning.learn import metrics_of
from pipeline.manifest import seal_written
from pipeline.storage import Location


def flipped(data: bytes) -> bytes:
    """One bit of a tensor's values."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def saved(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(Location.of(folder))
    checkpoints.save(TrainingState("a schedule", slot=7, tensors={"w": torch.arange(9999.0)}))
    checkpoints.finish()
    return checkpoints


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    assert not saved(tmp_path).is_damaged()
    state = TrainingState.of(Location.of(tmp_path))
    assert (state.schedule, state.slot) == ("a schedule", 7)
    assert torch.equal(state.tensors["w"], torch.arange(9999.0))


every_damage = pytest.mark.parametrize(
    "damage",
    [flipped, lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * 5000],
    ids=["flipped", "cut", "empty", "zeros"],
)


@every_damage
def test_nothing_goes_on_from_a_damaged_one(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    checkpoints = saved(tmp_path)
    checkpoints.place.write_bytes(damage(checkpoints.place.read_bytes()))
    assert checkpoints.is_damaged()
    assert TrainingState.of(Location.of(tmp_path)) == TrainingState()
    checkpoints.delete()
    assert not checkpoints.is_damaged()


FILES = ("encoders.safetensors", "heads.safetensors", "curve.parquet", "metrics.json")


@every_damage
@pytest.mark.parametrize("name", FILES)
def test_an_update_of_which_a_file_is_damaged_is_to_be_learned(
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Location.of(tmp_path)
    for file in FILES[:-1]:
        (out / file).write_bytes(b"numbers" * 100)
    assert metrics_of(out) is None
    (out / "metrics.json").write_json({"steps": 3})
    assert metrics_of(out) is None, "it counts once it is sealed"
    seal_written(out, FILES)
    assert metrics_of(out) == {"steps": 3}
    assert not capsys.readouterr().out
    (out / name).write_bytes(damage((out / name).read_bytes()))
    assert metrics_of(out) is None
    told = capsys.readouterr().out
    assert f"{out / name} is damaged" in told
    assert "its update is learned again" in told
    assert metrics_of(out) is None, "it does not come back to count"
