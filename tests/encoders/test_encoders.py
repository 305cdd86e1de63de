from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.video import r2plus1d_18 as torchvision_r2plus1d_18

from pipeline import encoders, settings
from pipeline.config import EncoderConfig
from pipeline.encoders import audio, heads, video
from pipeline.errors import UserError
from pipeline.storage import Location

HERE = "tests.encoders.layernorm_networks"


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def test_r2plus1d_18_is_torchvisions() -> None:
    reference = torchvision_r2plus1d_18(weights=None)
    ours = video.r2plus1d_18()
    expected = {k: s for k, s in shapes(reference).items() if not k.startswith("fc.")}
    assert shapes(ours) == expected
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if k in expected})
    reference.fc = torch.nn.Identity()
    clip = torch.randn(1, 3, 8, 32, 32)
    torch.testing.assert_close(ours.eval()(clip), reference.eval()(clip))


def test_xdc_widths_are_those_of_the_released_weights() -> None:
    """Parameter count and middle widths as published in the authors' repository."""
    ours, stock = video.r2plus1d_18_xdc(), shapes(video.r2plus1d_18())
    assert sum(p.numel() for p in ours.parameters()) == 33_165_639
    widths = [shapes(ours)[f"layer{n}.0.conv2.0.0.weight"][0] for n in (2, 3, 4)]
    assert widths == [288, 576, 1152]
    differing = [name for name, shape in shapes(ours).items() if shape != stock[name]]
    assert shapes(ours).keys() == stock.keys()
    assert len(differing) == 18


@pytest.mark.parametrize(
    ("make", "dim"), [(audio.resnet18, 512), (audio.resnet18_vmz, 512), (audio.resnet_small, 128)]
)
def test_audio_encoders_give_pooled_features(make: type, dim: int) -> None:
    network = make().eval()
    assert network.dim == dim
    assert network(torch.randn(2, 1, 40, 100)).shape == (2, dim)


def test_video_encoders_give_pooled_features() -> None:
    network = video.r2plus1d_small().eval()
    assert network(torch.randn(2, 3, 8, 40, 40)).shape == (2, network.dim)


def test_weights_depend_on_the_seed_alone_and_survive_storage(tmp_path: Path) -> None:
    config = EncoderConfig(video="r2plus1d_small", audio="resnet_small")
    torch.manual_seed(1)
    first = encoders.build(config, seed=5)
    torch.manual_seed(2)
    second, other = encoders.build(config, seed=5), encoders.build(config, seed=6)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    place = Location.of(tmp_path) / "encoders.safetensors"
    encoders.save_weights(first, place)
    encoders.load_weights(other, place)
    assert all(map(torch.equal, first.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("kind", ["batchnorm", "linear"])
def test_head_is_deepclusters(kind: str) -> None:
    torch.manual_seed(0)
    head = encoders.new_head(512, 256, kind)
    assert head[-1].bias.abs().max() == 0
    assert head[-1].weight.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("kind", ["batchnorm", "linear"])
def test_a_folded_head_is_linear_on_the_features(kind: str) -> None:
    torch.manual_seed(0)
    head = encoders.new_head(16, 5, kind)
    torch.nn.init.normal_(head[-1].bias)
    features = 3 + 0.1 * torch.randn(64, 16)
    head.train()
    for _ in range(100):
        head(features)
    plain = heads.folded(head.eval())
    assert torch.allclose(plain(features), head(features), atol=1e-5)
    apart = head(features).std(dim=0).mean()
    assert apart > (0.02 if kind == "batchnorm" else 0)  # the common part is gone


def test_an_encoder_of_ones_own_is_named_by_its_import_path() -> None:
    given = [f"encoders.video={HERE}:video_convnet", f"encoders.audio.name={HERE}:audio_convnet"]
    config = settings.load(given)
    encoders.check_encoders(config)
    networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
    assert networks["video"](torch.randn(2, 3, 4, 16, 16)).shape == (2, networks["video"].dim)
    assert networks["audio"](torch.randn(2, 1, 8, 8)).shape == (2, networks["audio"].dim)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("r2plus1d", "there is no video encoder 'r2plus1d'; set encoders.video to one of r2plus1"),
        ("tests.encoders.nowhere:net", "tests.encoders.nowhere:net cannot be imported: No module"),
        ("tests.encoders.layernorm_networks:net", "cannot be imported: module .* has no attribute"),
        ("torch.nn:Identity", "torch.nn:Identity has no attribute dim"),
        ("torchvision:resnet18", "name=resnet18 cannot be made: torchvision has no video network"),
        ("torchvision:mvit_v2_s", "wants clips.video.frames=16 .it is 8.$"),
        ("torchvision:s3d", "torchvision:s3d does not take clips of 8 frames of 224²: "),
        ("timm:nothing", "name=nothing cannot be made: Unknown model"),
        ("timm:test_vit?depht=1", "name=test_vit, depht=1 cannot be made: .*depht"),
        ("hf:/nowhere/at/all", "name=/nowhere/at/all cannot be made: "),
        (f"{HERE}:wants_nonsense", "attribute input has colour: see pipeline/encoders/contract.py"),
        (f"{HERE}:gives_too_much", "gives 2×16 for two clips, not 2×8"),
    ],
)
def test_a_network_that_cannot_be_an_encoder_is_rejected_by_name(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        encoders.check_encoders(settings.load([f"encoders.video={name}"]))
    assert "\n" not in str(error.value)


def test_a_batch_of_one_clip_never_reaches_batchnorm() -> None:
    with pytest.raises(UserError, match="gives the BatchNorm of the encoder r2plus1d_18_xdc no"):
        encoders.check_encoders(settings.load(["learning.batch_size=1"]))
