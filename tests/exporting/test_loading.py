"""Weights from elsewhere: torchvision's, the released XDC layout, runs, and what does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.video import r2plus1d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

import pipeline
from pipeline import encoders
from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.storage import Location
from tests.conftest import tiny
from tests.encoders.random_statistics import randomise

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


class OwnWidth(Conv2Plus1D):
    """The released weights' rule, stated here once more: 27·i·o // (9·i + 3·o) in every conv."""

    def __init__(self, i: int, o: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        super().__init__(i, o, 27 * i * o // (9 * i + 3 * o), stride, padding)


@pytest.fixture(scope="module")
def released() -> VideoResNet:
    """A network like the authors': their widths, eps 1e-3, Caffe2's momentum; random values."""
    network = VideoResNet(BasicBlock, [OwnWidth] * 4, [2, 2, 2, 2], R2Plus1dStem)
    network.fc = nn.Identity()
    # Variances near eps, so that another eps gives other features.
    randomise(network, scale=0.02)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps, module.momentum = 1e-3, 0.9
    return network.eval()


@torch.no_grad()
def test_released_layout(released: VideoResNet, tmp_path: Path) -> None:
    torch.save(released.state_dict(), tmp_path / "xdc.pth")
    ours = pipeline.load_encoder(tmp_path / "xdc.pth")
    assert not ours.training
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.1)}
    expected = released(CLIP)
    torch.testing.assert_close(ours(CLIP), expected)
    other = pipeline.load_encoder(tmp_path / "xdc.pth", eps=1e-5)(CLIP)
    assert (other - expected).abs().max() > 0.01 * expected.abs().max()


@torch.no_grad()
def test_released_layout_without_counters_inside_a_trainers_checkpoint(
    released: VideoResNet, tmp_path: Path
) -> None:
    state = {
        f"module.{name}": tensor
        for name, tensor in released.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "trained.pth")
    ours = pipeline.load_encoder(str(tmp_path / "trained.pth"), "video")
    torch.testing.assert_close(ours(CLIP), released(CLIP))


@torch.no_grad()
@pytest.mark.parametrize("head", [True, False])
def test_torchvisions_video_weights(head: bool, tmp_path: Path) -> None:
    stock = randomise(r2plus1d_18(weights=None)).eval()
    state = stock.state_dict()
    if not head:
        state = {n: t for n, t in state.items() if not n.startswith("fc.")}
    torch.save(state, tmp_path / "stock.pth")
    stock.fc = nn.Identity()
    ours = pipeline.load_encoder(tmp_path / "stock.pth")
    assert {m.eps for m in ours.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-5}
    torch.testing.assert_close(ours(CLIP), stock(CLIP))


def test_one_line_names_the_tensors_that_differ(released: VideoResNet, tmp_path: Path) -> None:
    state = released.state_dict()
    state["stem.0.weight"] = torch.zeros(45, 1, 1, 7, 7)
    del state["layer1.0.conv1.1.bias"]
    torch.save(state, tmp_path / "bent.pth")
    with pytest.raises(UserError) as error:
        pipeline.load_encoder(tmp_path / "bent.pth")
    assert str(error.value) == (
        f"{tmp_path}/bent.pth fits no encoder; against the nearest, r2plus1d_18_xdc, 2 tensors "
        "differ: stem.0.weight 45×1×1×7×7, not 45×3×1×7×7; layer1.0.conv1.1.bias is missing"
    )


def test_colour_stem_does_not_fit_the_audio_encoder(tmp_path: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(UserError, match=r"1 tensor differs: conv1.weight 64×3×7×7, not 64×1×7×7$"):
        pipeline.load_encoder(tmp_path / "imagenet.pth")


def test_an_encoder_of_ours_from_a_run(tmp_path: Path) -> None:
    config = tiny(f"run={tmp_path / 'run'}", "encoders.audio=resnet18_vmz")
    run = Run.open(config)
    with pytest.raises(UserError, match="has no finished round yet"):
        pipeline.load_encoder(tmp_path / "run", "audio")
    saved = []
    for number in (0, 1):
        saved.append(randomise(encoders.build(config.encoders, seed=number)).eval())
        encoders.save_weights(saved[number], run.round(number).encoders)
        run.commit(run.round(number), {"round": number})
    spectrogram = torch.randn(2, 1, 40, 100)
    clip = CLIP[..., :24, :24]
    weights = tmp_path / "run/rounds/0001/encoders.safetensors"
    with torch.no_grad():
        for loaded in (
            pipeline.load_encoder(tmp_path / "run", "audio"),
            pipeline.load_encoder(f"file://{tmp_path}/run", "audio", round=1),
            pipeline.load_encoder(weights, "audio"),
        ):
            assert torch.equal(loaded(spectrogram), saved[1]["audio"](spectrogram))
        first = pipeline.load_encoder(tmp_path / "run", "video", round=0)
        assert torch.equal(first(clip), saved[0]["video"](clip))
    for source in (tmp_path / "run", weights):
        with pytest.raises(UserError, match="say modality='video' or modality='audio'"):
            pipeline.load_encoder(source)
    with pytest.raises(UserError, match="round 2 does not exist; the last finished one is 1"):
        pipeline.load_encoder(tmp_path / "run", "audio", round=2)


def test_loaded_weights_can_be_trained(tmp_path: Path) -> None:
    network = encoders.new_encoder("audio", "resnet_small")
    half = {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = pipeline.load_encoder(tmp_path / "half.safetensors").train()
    loaded(torch.randn(4, 1, 40, 40)).square().mean().backward()
    for parameter in loaded.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None


def test_what_is_no_weights_ends_in_one_line(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"weight": 3}, tmp_path / "numbers.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    (tmp_path / "notes.txt").write_text("weights")
    for name, words in {
        "module.pth": "is not a file of plain tensors",
        "numbers.pt": "holds no state dict",
        "cut.safetensors": "is not a whole safetensors file",
        "notes.txt": "is not a file of weights",
        "nowhere": "there is no encoder in",
        "": "there is no encoder in",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            pipeline.load_encoder(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown modality 'sound'"):
        pipeline.load_encoder(tmp_path, "sound")


def test_wrong_weights_in_a_run_end_in_one_line(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "head.safetensors")
    encoders.save_weights(nn.Linear(8, 4), place)
    with pytest.raises(UserError, match=r"not fit these encoders: 1 tensor differs: weight 4×8"):
        encoders.load_weights(nn.Linear(6, 4), place)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import pipeline, sys; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
