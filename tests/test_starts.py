"""Encoders that begin with weights, from wherever these lie."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

import pipeline
from pipeline import encoders, settings
from pipeline.config import Config
from pipeline.encoders.architectures import new_encoder
from pipeline.encoders.weights import saved_eps
from pipeline.errors import UserError
from pipeline.evaluation.protocols import evaluate_rounds
from pipeline.evaluation.report import below_start, by_round
from pipeline.manifest import Manifest, seal_written
from pipeline.rounds import pretrain
from pipeline.starts import check_starts, read_start, start_with, starts_of
from pipeline.storage import Location
from tests.conftest import tiny
from tests.encoders.random_statistics import randomise
from tests.whole_runs import Calm

VIDEO = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = ("encoders.video=r2plus1d_small", "encoders.audio=resnet_small")


def config(*given: str) -> Config:
    return settings.load([*SMALL, *given])


def saved(place: Path, **networks: nn.Module) -> Location:
    file = Location.of(place)
    encoders.save_weights(nn.ModuleDict(networks), file)
    return file


def of(name: str = "r2plus1d_small", modality: str = "video") -> nn.Module:
    return randomise(new_encoder(modality, name)).eval()


@torch.no_grad()
def test_the_weights_of_a_file_become_round_0(tmp_path: Path) -> None:
    theirs, other = of(), of("resnet_small", "audio")
    source = saved(tmp_path / "theirs.safetensors", video=theirs, audio=other)
    chosen = config(f"encoders.video.start={source}")
    weights = Location.of(tmp_path / "encoders.safetensors")
    encoders.save_weights(encoders.build(chosen.encoders, seed=1), weights)
    noted = start_with(chosen, weights, {})
    assert noted.keys() == {"video"}
    assert noted["video"]["source"] == str(source)
    begun = encoders.build(chosen.encoders, seed=0)
    encoders.load_weights(begun, weights)
    torch.testing.assert_close(begun["video"].eval()(VIDEO), theirs(VIDEO))
    random = encoders.build(chosen.encoders, seed=1)["audio"].state_dict()
    for name, tensor in begun["audio"].state_dict().items():
        assert torch.equal(tensor, random[name]), "the other one stays random"


@torch.no_grad()
def test_released_weights_keep_their_eps(tmp_path: Path) -> None:
    theirs = of("r2plus1d_18_xdc")
    randomise(theirs, scale=0.02)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    torch.save(theirs.state_dict(), tmp_path / "xdc.pth")
    chosen = config(
        "encoders.video.name=r2plus1d_18_xdc", f"encoders.video.start={tmp_path / 'xdc.pth'}"
    )
    weights = Location.of(tmp_path / "encoders.safetensors")
    encoders.save_weights(encoders.build(chosen.encoders, seed=1), weights)
    start_with(chosen, weights, {})
    assert saved_eps(weights) == {"video": 1e-3}
    loaded = pipeline.load_encoder(str(weights), "video")
    torch.testing.assert_close(loaded(VIDEO), theirs(VIDEO))
    begun = encoders.build(chosen.encoders, seed=0)
    encoders.load_weights(begun, weights)
    torch.testing.assert_close(begun["video"].eval()(VIDEO), theirs(VIDEO))
    # What a training writes of it says so as well.
    again = Location.of(tmp_path / "again.safetensors")
    encoders.save_weights(begun, again)
    assert saved_eps(again) == {"video": 1e-3}


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "stock"),
    [("r2plus1d_18", "r2plus1d_18"), ("torchvision:r3d_18", "r3d_18")],
)
def test_torchvisions_files_with_their_classifiers(name: str, stock: str, tmp_path: Path) -> None:
    theirs = randomise(models.get_model(stock)).eval()
    torch.save(theirs.state_dict(), tmp_path / f"{stock}-91a641e6.pth")
    start = f"encoders.video.start={tmp_path / f'{stock}-91a641e6.pth'}"
    begun = read_start(config(f"encoders.video.name={name}", start), "video")
    theirs.fc = nn.Identity()
    assert begun.training
    torch.testing.assert_close(begun.eval()(VIDEO), theirs(VIDEO))


def test_the_hubs_own_weights_of_a_name(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra networks")
    from tests.encoders import small_transformers

    folder = small_transformers.folder(tmp_path, "VideoMAE")
    stock = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    stock.save_pretrained(folder)
    begun = read_start(
        config(f"encoders.video.name=hf:{folder}", "encoders.video.start=pretrained"), "video"
    )
    for name, tensor in stock.state_dict().items():
        assert torch.equal(begun.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"start": "{}/none.pth"}, "there are no weights in .*none.pth: give a run"),
        ({"start": "{}/other.safetensors"}, "does not fit the encoder r2plus1d_small: .* tensors"),
        ({"start": "{}/other.safetensors#2"}, "is not a run directory, so it has no round 2"),
        ({"start": "{}/other.safetensors#two"}, "after # stands the number of a round"),
        ({"start": "pretrained"}, "needs a network of another package"),
        ({"start": "timm:test_vit"}, "does not fit the encoder r2plus1d_small: it is timm:test_v"),
        ({"name": "r2plus1d_18", "start": "{}/other.safetensors"}, "name=r2plus1d_18_xdc is near"),
    ],
)
def test_what_does_not_fit_is_one_line(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    saved(tmp_path / "other.safetensors", video=of("r2plus1d_18_xdc"))
    chosen = [f"encoders.video.{k}={v.format(tmp_path)}" for k, v in given.items()]
    with pytest.raises(UserError, match=words) as error:
        read_start(config(*chosen), "video")
    assert "\n" not in str(error.value)


def test_a_run_begins_where_another_one_stands(
    calm: Calm,
    new_run: Callable[[], Location],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = Location.of(tmp_path / "theirs")
    shutil.copytree(str(calm.place), str(theirs))
    starts = [f"encoders.audio.start={theirs}", f"encoders.video.start={theirs}#1"]
    chosen = tiny(f"run={new_run()}", *starts)
    run = pretrain(chosen)
    begun, last, first = (
        encoders.build(chosen.encoders, seed=5) for _ in ("begun", "last", "first")
    )
    encoders.load_weights(begun, run.round(0).encoders)
    encoders.load_weights(last, theirs / "rounds" / "0002" / "encoders.safetensors")
    encoders.load_weights(first, theirs / "rounds" / "0001" / "encoders.safetensors")
    for name, tensor in begun.state_dict().items():
        expected = (last if name.startswith("audio") else first).state_dict()[name]
        assert torch.equal(tensor, expected), name
    said = capsys.readouterr().out
    assert f"round 0 · video {theirs}#1, audio {theirs} in" in said
    assert "the start's" in said
    starts = starts_of(run.round(0).location)
    assert starts["audio"]["source"] == str(theirs)

    report = evaluate_rounds(run, [1], "test")
    assert "0 (start)" in by_round(report)
    below = [row for row in report["results"] if row["round"] == 1]
    for row in below:
        row["mean"] = dict.fromkeys(row["mean"], -1.0)
    assert len(below_start(report)) == len(below)

    # The source goes on, and is gone: the run keeps what it began with.
    other = randomise(encoders.build(chosen.encoders, seed=6))
    weights = theirs / "rounds" / "0001" / "encoders.safetensors"
    encoders.save_weights(other, weights)
    seal_again(theirs / "rounds" / "0001")
    with pytest.raises(UserError, match="has other weights now than the run began with"):
        start_with(chosen, run.round(0).encoders, starts)
    check_starts(chosen, starts)
    assert f"{theirs}#1 has other weights now than the video encoder" in capsys.readouterr().out
    shutil.rmtree(str(theirs))
    check_starts(chosen, starts)
    assert "which cannot be read now" in capsys.readouterr().out


def seal_again(folder: Location) -> None:
    manifest = Manifest.read(folder)
    assert manifest is not None
    seal_written(folder, [*manifest.files], **manifest.made_of)


def test_sound_of_other_settings_is_refused(calm: Calm) -> None:
    chosen = tiny(f"encoders.audio.start={calm.place}", "clips.audio.normalize=none")
    with pytest.raises(UserError, match=r"knows other sound: set clips\.audio\.normalize=clip"):
        read_start(chosen, "audio")


@pytest.mark.cluster
def test_a_whole_run_of_transformers(new_run: Callable[[], Location], tmp_path: Path) -> None:
    """A vision transformer over frames beside a network that hears the waveform."""
    pytest.importorskip("transformers", reason="needs the extra networks")
    from tests.encoders import small_transformers

    hubert = small_transformers.folder(tmp_path, "Hubert")
    vit = "timm:vit_tiny_patch16_224?img_size=24&patch_size=8&depth=2&embed_dim=48&num_heads=2"
    config = tiny(
        f"run={new_run()}",
        f"encoders.video={vit}",
        f"encoders.audio=hf:{hubert}",
        "learning.workers=2",
        "learning.batch_size=4",
        "embedding.from_training=true",
        "embedding.keep=true",
    )
    run = pretrain(config)
    assert run.last_round() == 1
    assert {row["round"] for row in evaluate_rounds(run, [0, 1], "test")["results"]} == {0, 1}
    for modality in ("video", "audio"):
        loaded = pipeline.load_encoder(str(run.location), modality)
        assert loaded.dim == {"video": 48, "audio": 32}[modality]
