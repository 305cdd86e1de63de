"""Training that diverged ends in one line before anything of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import encoders
from pipeline.errors import UserError
from pipeline.learning.divergence import check_values
from pipeline.storage import Location
from tests.conftest import tiny
from tests.learning.test_learn import trained
from tests.learning.test_learner import XDC, batch, learner


@pytest.mark.parametrize(
    "steps",
    [
        # The loss of the only step is a number. What it makes of the weights is none.
        ["learning.epoch_clips=16", "learning.epochs=1", "learning.held_out=0", "learning.lr=1e39"],
        pytest.param(["learning.lr=1e12"], marks=pytest.mark.chaos),
    ],
)
def test_it_ends_at_once_and_keeps_nothing(
    new_run: Callable[[], Location], steps: list[str]
) -> None:
    run = new_run()
    diverges = ["learning.warmup=0", "learning.optimizer=sgd", "learning.workers=2"]
    with pytest.raises(UserError) as raised:
        trained(run, "update", *diverges, "learning.checkpoint_minutes=1e-9", *steps)
    message = str(raised.value)
    assert message.startswith("update diverged at ")
    assert "lower learning.lr (it is 1e+" in message
    assert "or set learning.clip_grad_norm=1" in message
    assert "\n" not in message, "no traceback of a worker"
    left = [path.name for path in Path(str(run / "update")).rglob("*") if path.is_file()]
    assert not left


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e6])
def test_a_loss_that_nothing_recovers_from_is_named(bad: float) -> None:
    values = {"loss_video_audio": 1.3, "held_out_loss": bad}
    task = SimpleNamespace(title="round 1/4 · learn video", config=tiny("precision=bfloat16"))
    with pytest.raises(UserError, match="at step 3: held_out_loss is") as raised:
        check_values(values, task, "step 3")
    assert f"is {bad:.3g}. Nothing of it was kept" in str(raised.value)
    assert "a new run may set precision=float32 (bfloat16)" in str(raised.value)
    check_values({"loss_video_audio": 900.0}, task, "step 3")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_tensors_that_are_no_numbers_are_named_wherever_they_are(
    tmp_path: Path, bad: float
) -> None:
    trained_one = learner(tmp_path, XDC)
    trained_one.step([batch()], 0.5)
    assert not trained_one.not_finite()
    momentum = next(iter(trained_one.optimizer.state.values()))["exp_avg"]
    momentum[0] = bad
    assert trained_one.not_finite() == ["0.exp_avg"]
    momentum.zero_()
    statistic = next(b for name, b in trained_one.model.named_buffers() if "running_var" in name)
    statistic[0] = bad
    (named,) = trained_one.not_finite()
    assert named.endswith("running_var")


def test_such_weights_are_neither_written_nor_read(tmp_path: Path) -> None:
    place = Location.of(tmp_path) / "weights.pth"
    networks = encoders.build(tiny().encoders, seed=0)
    state = networks.state_dict()
    total = len(state)
    broken = next(name for name in state if name.endswith("weight"))
    with torch.no_grad():
        state[broken].view(-1)[3] = torch.nan
    torch.save(state, tmp_path / "weights.pth")
    told = f"1 of {total} tensors hold NaN or infinity \\(the first: {broken}\\)"
    with pytest.raises(UserError, match=f"cannot be used: {told}; the training .* diverged"):
        encoders.load_weights(encoders.build(tiny().encoders, seed=1), place)
    with pytest.raises(UserError, match=f"was not written: {told}"):
        encoders.save_weights(networks, Location.of(tmp_path) / "encoders.safetensors")
    assert not (tmp_path / "encoders.safetensors").exists()
