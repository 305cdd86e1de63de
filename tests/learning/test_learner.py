from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import encoders
from pipeline.config import LearningConfig
from pipeline.errors import UserError
from pipeline.learning.learner import Learner, read
from pipeline.learning.optimizers import rate_factor
from pipeline.learning.task import LearnerSpec
from pipeline.storage import Location
from tests.conftest import tiny

B = 8


def learner(tmp_path: Path, heads: dict, *overrides: str, key: tuple = (0, 1, 0)) -> Learner:
    config = tiny(*overrides)
    weights = Location.of(tmp_path) / "encoders.safetensors"
    encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
    spec = LearnerSpec(heads, weights, key)
    return Learner(spec, config, torch.device("cpu"), lambda module: module)


def batch(seed: int = 0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    full = {
        "video": rng.integers(0, 256, (B, 4, 24, 24, 3), dtype=np.uint8),
        "audio": rng.normal(size=(B, 16_000)).astype(np.float32),
        "has_video": np.ones(B, bool),
        "has_audio": np.ones(B, bool),
        "mirror": np.zeros(B, bool),
        "slot": np.int64(seed),
        "label_video": np.arange(B, dtype=np.int32) % 3,
        "label_audio": np.arange(B, dtype=np.int32) % 3,
    }
    return full | changes


XDC = {"video": {"audio": 3}, "audio": {"video": 3}}


def test_learns_a_batch_by_heart(tmp_path: Path) -> None:
    trained = learner(tmp_path, XDC, "learning.lr=0.003", "learning.warmup=0")
    first = read(trained.step([batch()], 0.0))
    for _ in range(25):
        last = read(trained.step([batch()], 0.0))
    assert first["loss_video_audio"] == pytest.approx(np.log(3), abs=0.3)
    assert last["loss_video_audio"] < 0.2
    assert last["loss_audio_video"] < 0.2
    assert last["accuracy_video_audio"] == 1.0


def test_each_head_predicts_the_labels_it_should(tmp_path: Path) -> None:
    """Without labels of one clustering only the heads that predict it have no loss."""
    mdc = {"video": {"video": 3, "audio": 3}, "audio": {"audio": 3, "video": 3}}
    none = np.full(B, -1, np.int32)
    losses = read(learner(tmp_path, mdc).step([batch(label_audio=none)], 0.5))
    assert losses["loss_video_audio"] == losses["loss_audio_audio"] == 0
    assert losses["loss_video_video"] > 0.5
    assert losses["loss_audio_video"] > 0.5


def test_clips_without_a_modality_change_nothing(tmp_path: Path) -> None:
    """What stands in the place of a missing picture must not matter, nor enter BatchNorm."""
    has = np.arange(B) != 2
    results = []
    for filler in (0, 255):
        video = batch()["video"].copy()
        video[2] = filler
        trained = learner(tmp_path, {"video": {"audio": 3}})
        trained.step([batch(video=video, has_video=has)], 0.5)
        results.append(trained.networks.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_only_the_updates_encoders_change(tmp_path: Path) -> None:
    trained = learner(tmp_path, {"audio": {"audio": 3, "video": 3}})
    before = {name: t.clone() for name, t in trained.networks.state_dict().items()}
    trained.step([batch()], 0.5)
    changed = {
        n.split(".")[0]
        for n, t in trained.networks.state_dict().items()
        if not torch.equal(t, before[n])
    }
    assert changed == {"audio"}


def test_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    trained = learner(tmp_path, XDC)
    before = {name: t.clone() for name, t in trained.model.state_dict().items()}
    losses = trained.evaluate(batch())
    assert losses["held_out_loss"] > 0
    assert all(torch.equal(t, before[n]) for n, t in trained.model.state_dict().items())


def test_new_heads_follow_the_key(tmp_path: Path) -> None:
    weights = [
        learner(tmp_path, XDC, key=key).model.heads["video_audio"][-1].weight
        for key in ((0, 1, 0), (0, 1, 0), (0, 2, 0))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_learning_rate_schedules() -> None:
    cosine = LearningConfig(warmup=0.1, schedule="cosine")
    rates = [rate_factor(cosine, p) for p in (0.0, 0.05, 0.1, 0.55, 0.999)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1)
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] < 1e-4
    step = LearningConfig(warmup=0, schedule="step", step_milestones=(0.5, 0.8))
    assert [rate_factor(step, p) for p in (0.4, 0.6, 0.9)] == pytest.approx([1, 0.1, 0.01])


def test_stops_when_the_held_out_loss_no_longer_falls(tmp_path: Path) -> None:
    patient = learner(tmp_path, XDC, "learning.patience=2")
    assert not patient.should_stop([3.0, 2.0, 1.9])
    assert not patient.should_stop([3.0, 2.0, 2.1])
    assert patient.should_stop([3.0, 2.0, 2.1, 2.05])
    assert not learner(tmp_path, XDC).should_stop([1.0, 2.0, 3.0, 4.0])


def test_a_trunk_learns_at_a_rate_of_its_own(tmp_path: Path) -> None:
    """With plain SGD the first step is the rate times the gradient."""
    plain = ("learning.optimizer=sgd", "learning.momentum=0", "learning.weight_decay=0")
    moved: dict[str, dict[str, torch.Tensor]] = {}
    for name, more in {"one": (), "slow": ("learning.trunk_lr=0.02",)}.items():
        trained = learner(tmp_path, XDC, *plain, "learning.lr=0.1", "learning.warmup=0", *more)
        before = {n: p.detach().clone() for n, p in trained.model.named_parameters()}
        trained.step([batch()], 0.0)
        after = dict(trained.model.named_parameters())
        moved[name] = {n: after[n].detach() - before[n] for n in before}
    for name, step in moved["one"].items():
        factor = 0.2 if name.startswith("encoders.") else 1.0
        torch.testing.assert_close(moved["slow"][name], factor * step, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_an_encoder_that_began_with_weights_learns_more_slowly(
    optimizer: str, tmp_path: Path
) -> None:
    trained = learner(
        tmp_path, XDC, f"learning.optimizer={optimizer}", "encoders.video.start=runs/a"
    )
    trained.step([batch()], 0.5)
    rates = {id(p): g["lr"] for g in trained.optimizer.param_groups for p in g["params"]}
    named = {n: rates[id(p)] for n, p in trained.model.named_parameters()}
    (slow,) = {rate for name, rate in named.items() if name.startswith("encoders.video")}
    (rate,) = {rate for name, rate in named.items() if not name.startswith("encoders.video")}
    assert slow == pytest.approx(rate / 10)


def test_stages_stay_frozen(tmp_path: Path) -> None:
    """Their BatchNorm statistics included; an unknown part is an error."""
    more = ("encoders.video.frozen=[stem,layer1]", "encoders.audio.frozen=stem")
    trained = learner(tmp_path, XDC, *more, "learning.lr=0.1")
    before = {n: t.clone() for n, t in trained.model.encoders.state_dict().items()}
    for seed in range(3):
        trained.step([batch(seed)], 0.0)
    after = trained.model.encoders.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    still = ("video.stem.", "video.layer1.", "audio.stem.")
    assert not [name for name in moved if name.startswith(still)]
    kept = [name for name in before.keys() - moved if not name.startswith(still)]
    assert kept == []
    with pytest.raises(UserError, match=r"frozen has 'layer9'.*it has stem, layer1"):
        learner(tmp_path, XDC, "encoders.video.frozen=layer9")


def test_frozen_encoders_stay_as_they_are_while_their_heads_learn(tmp_path: Path) -> None:
    """BatchNorm's running statistics included."""
    config = tiny("learning.optimizer=sgd", "learning.lr=0.1", "learning.weight_decay=0.1")
    weights = Location.of(tmp_path) / "encoders.safetensors"
    encoders.save_weights(encoders.build(config.encoders, seed=0), weights)
    device = torch.device("cpu")
    spec = LearnerSpec(XDC, weights, (0, 1, 0), frozen=True)
    trained = Learner(spec, config, device, lambda m: m)
    linear = trained.model.heads["video_audio"][-1]  # type: ignore[index]
    head = linear.weight.detach().clone()
    for _ in range(3):
        trained.step([batch()], 0.0)
    trained.save(Location.of(tmp_path / "after"))
    after = (tmp_path / "after" / "encoders.safetensors").read_bytes()
    assert after == weights.read_bytes()
    assert not torch.equal(linear.weight, head)


def test_precision_changes_the_last_bits(tmp_path: Path) -> None:
    """On a CPU bfloat16 is used where it is asked for, and only there."""
    losses = {
        name: learner(tmp_path, XDC, f"precision={name}").evaluate(batch())["held_out_loss"]
        for name in ("auto", "float32", "bfloat16")
    }
    assert losses["auto"] == losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    for most in (0.0, 0.01):
        trained = learner(tmp_path, XDC, f"learning.clip_grad_norm={most}")
        trained.step([batch()], 0.5)
        gradients = [p.grad for p in trained.model.parameters() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.cat([g.ravel() for g in gradients])))
        assert norm == pytest.approx(0.01, rel=1e-3) if most else norm > 0.1


def test_encoders_are_compiled_where_asked(tmp_path: Path) -> None:
    """Compiling itself waits for the first step."""
    for asked in (False, True):
        trained = learner(tmp_path, XDC, f"learning.compile={asked}")
        compiled = [m._compiled_call_impl is not None for m in trained.model.encoders.values()]
        assert compiled == [asked, asked]
