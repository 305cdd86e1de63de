"""Encoders of torchvision, timm and transformers, small ones, made of configurations alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from pipeline import encoders, settings
from pipeline.encoders.architectures import architecture, new_encoder
from pipeline.encoders.contract import Input
from pipeline.encoders.frontend import front_end

timm = pytest.importorskip("timm", reason="needs the extra networks")
transformers = pytest.importorskip("transformers", reason="needs the extra networks")

from tests.encoders import small_transformers  # noqa: E402

FRAMES = torch.randint(
    0, 256, (2, 4, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
WAVEFORM = 0.1 * torch.randn((2, 16_000), generator=torch.Generator().manual_seed(0))
CLIPS = settings.load(
    ["clips.video.frames=4", "clips.video.size=24", "clips.audio.window_s=1"]
).clips


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def learns(modality: str, name: str) -> torch.nn.Module:
    """A network that gives `dim` features of decoded clips, and all of which learns from them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = new_encoder(modality, name).train()
    clips = FRAMES if modality == "video" else WAVEFORM
    inputs = front_end(modality, network, CLIPS)(clips)
    features = network(inputs)
    assert features.shape == (2, network.dim)
    assert torch.equal(network(inputs), features) or has_batchnorm(network), "it draws nothing"
    features.square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "training on several workers needs a gradient of each"
    return network


def has_batchnorm(network: torch.nn.Module) -> bool:
    return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in network.modules())


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "swin3d_t"])
def test_torchvisions_video_networks(name: str) -> None:
    network = learns("video", f"torchvision:{name}")
    assert network.dim == {"swin3d_t": 768}.get(name, 512)
    stock = models.get_model(name)
    stock.load_state_dict(network.net.state_dict(), strict=False)
    head = "head" if name == "swin3d_t" else "fc"
    setattr(stock, head, torch.nn.Identity())
    shown = models.get_model_weights(name).DEFAULT.transforms()
    colours = FRAMES.permute(0, 4, 1, 2, 3) / 255
    mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (shown.mean, shown.std))
    ours = front_end("video", network, CLIPS)(FRAMES)
    torch.testing.assert_close(ours, (colours - mean) / std)
    torch.testing.assert_close(network.eval()(ours), stock.eval()(ours))


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "vit_tiny_patch16_224?img_size=24&patch_size=8&depth=2"],
)
def test_timms_image_networks_over_frames(name: str) -> None:
    network = learns("video", f"timm:{name}").eval()
    inputs = front_end("video", network, CLIPS)(FRAMES)
    each = torch.stack([network.net(inputs[:, :, t]) for t in range(4)])
    torch.testing.assert_close(network(inputs), each.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", small_transformers.VIDEO)
def test_video_transformers(name: str, folders: Path) -> None:
    network = learns("video", f"hf:{small_transformers.folder(folders, name)}")
    assert Input.of(network, "video").settings["clips.video.size"] == 24


@pytest.mark.parametrize("name", small_transformers.AUDIO)
def test_audio_transformers(name: str, folders: Path) -> None:
    network = learns("audio", f"hf:{small_transformers.folder(folders, name)}")
    assert Input.of(network, "audio").kind == "waveform"


def test_sound_reaches_transformers_as_their_own_front_ends_make_it(folders: Path) -> None:
    place = small_transformers.folder(folders, "AST")
    network = new_encoder("audio", f"hf:{place}")
    theirs = transformers.ASTFeatureExtractor.from_pretrained(place)
    expected = theirs([*WAVEFORM.numpy()], sampling_rate=16_000, return_tensors="pt")
    seen = {}
    network.model.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    network(front_end("audio", network, CLIPS)(WAVEFORM))
    torch.testing.assert_close(seen["x"], expected["input_values"], rtol=0, atol=1e-4)

    place = small_transformers.folder(folders, "Hubert")
    network = new_encoder("audio", f"hf:{place}")
    theirs = transformers.Wav2Vec2FeatureExtractor.from_pretrained(place)
    expected = theirs([*WAVEFORM.numpy()], sampling_rate=16_000, return_tensors="np")
    ours = front_end("audio", network, CLIPS)(WAVEFORM).numpy()
    np.testing.assert_allclose(ours, expected["input_values"], atol=1e-5)


def test_a_transformer_is_made_again_without_the_hub(folders: Path) -> None:
    network = new_encoder("video", f"hf:{small_transformers.folder(folders, 'VideoMAE')}").eval()
    again = architecture("video", "hf:unused").make(**network.arguments).eval()
    again.load_state_dict(network.state_dict())
    inputs = front_end("video", network, CLIPS)(FRAMES)
    assert torch.equal(again(inputs), network(inputs))
    assert again.input == network.input


def test_options_change_a_configuration(folders: Path) -> None:
    place = small_transformers.folder(folders, "VideoMAE")
    assert len(new_encoder("video", f"hf:{place}?num_hidden_layers=1").model.encoder.layer) == 1


def test_channels_last_only_where_it_is_right(folders: Path) -> None:
    vit = "timm:vit_tiny_patch16_224?img_size=24&patch_size=8&depth=2"
    config = settings.load([f"encoders.video={vit}", "encoders.audio=resnet_small"])
    before = encoders.build(config.encoders, seed=0)
    kernel = "net.patch_embed.proj.weight"
    strides = before["video"].get_parameter(kernel).stride()
    after = encoders.channels_last(before)
    assert after["video"].get_parameter(kernel).stride() == strides
    stem = after["audio"].get_submodule("layer1.0.conv1").weight
    assert stem.is_contiguous(memory_format=torch.channels_last)
