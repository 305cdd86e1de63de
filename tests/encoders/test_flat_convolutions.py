"""(2+1)D convolutions that are computed in two dimensions: the same functions, the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18 as torchvision_r2plus1d_18

from benchmarks.padded_widths import check
from pipeline.encoders import video

MAKERS = [video.r2plus1d_18, video.r2plus1d_18_xdc, video.r2plus1d_small]


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    """Float64: in float32, rounding that training-mode BatchNorm magnifies would hide a fault."""
    torch.manual_seed(0)
    return make().double().to(memory_format=torch.channels_last_3d)


def in_three_dimensions(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, video.FlatConv3d):
            module.__class__ = nn.Conv3d
    return network


def clips(frames: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 3, frames, side, side, generator=generator, dtype=torch.float64)
    return values.to(memory_format=torch.channels_last_3d)


def assert_same(ours: nn.Module, theirs: nn.Module, inputs: Tensor) -> None:
    """Features in both modes, every gradient, and BatchNorm's statistics."""
    found, expected = ours.train()(inputs), theirs.train()(inputs)
    torch.testing.assert_close(found, expected)
    for features in (found, expected):
        features.square().sum().backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if not n.startswith("fc.")}
    torch.testing.assert_close({n: p.grad for n, p in ours.named_parameters()}, wanted)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("frames", "side"), [(8, 32), (5, 23)])
def test_features_and_gradients_are_those_of_three_dimensions(
    make: Callable[[], nn.Module], frames: int, side: int
) -> None:
    ours = drawn(make)
    kinds = [type(m) for m in ours.modules() if isinstance(m, nn.Conv3d)]
    assert kinds.count(nn.Conv3d) == 3, "the shortcuts, which take every second frame and point"
    assert_same(ours, in_three_dimensions(drawn(make)), clips(frames, side))


def test_features_and_gradients_are_torchvisions() -> None:
    theirs = torchvision_r2plus1d_18(weights=None).double()
    theirs.fc = nn.Identity()
    ours = drawn(video.r2plus1d_18)
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours, theirs, clips(8, 32))


@pytest.mark.parametrize("make", MAKERS)
def test_padded_middle_widths_change_nothing(make: Callable[[], nn.Module]) -> None:
    check(drawn(make))


def test_clips_with_the_channels_first_give_the_same() -> None:
    network, inputs = drawn(video.r2plus1d_small).eval(), clips(8, 32)
    torch.testing.assert_close(network(inputs.contiguous()), network(inputs))


def test_what_is_not_flat_stays() -> None:
    for conv in (
        nn.Conv3d(3, 4, 3, bias=False),
        nn.Conv3d(3, 4, (1, 3, 3)),  # with a bias
        nn.Conv3d(3, 4, (1, 3, 3), stride=2, bias=False),
        nn.Conv3d(3, 4, (3, 1, 1), stride=2, bias=False),
        nn.Conv3d(3, 3, (1, 3, 3), groups=3, bias=False),
        nn.Conv3d(3, 4, (3, 1, 1), dilation=2, bias=False),
        nn.Conv3d(3, 4, (3, 1, 1), padding=1, bias=False),
        nn.Conv3d(3, 4, (1, 3, 3), padding="same", bias=False),
        nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0), padding_mode="circular", bias=False),
    ):
        assert not video.FlatConv3d.can_replace(conv)
