"""Encoders taken elsewhere: by the model card's own code, where this package cannot be imported."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pipeline
from jobs.export import main as export
from pipeline.encoders.architectures import ARCHITECTURES, Architecture
from pipeline.errors import UserError
from tests.conftest import tiny
from tests.exporting.exports import WITHOUT_PACKAGE, Jobs, media_and_features, new_run

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    *("README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
    *("encoder.py", "modeling_xdc.py"),
}
PROCESSORS = {"video": {"video_processing_xdc.py"}, "audio": {"feature_extraction_xdc.py"}}
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None

# Runs every code block of the cards of some folders, in order; the features that a block makes are
# kept as <inputs>.<number of the block>.npy. Blocks for transformers only where it is installed.
READER = f"""{WITHOUT_PACKAGE}
import os, re
import importlib.util
import numpy as np
from safetensors.torch import load_file

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
for folder, inputs in zip(sys.argv[1::2], sys.argv[2::2]):
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.modules.pop("encoder", None)
    names = load_file(inputs)
    card = open("README.md").read()
    for number, code in enumerate(re.findall("```python\\n(.*?)```", card, re.S)):
        if "import AutoModel" in code and not HAS_TRANSFORMERS:
            continue
        exec(code, names)
        if "features" in names:
            np.save(f"{{inputs}}.{{number}}.npy", np.asarray(names.pop("features")))
    sys.path.pop(0)
"""


@dataclass
class Taken:
    """One exported folder, some media, and the features that our own code makes of them."""

    folder: Path
    media: Path
    expected: np.ndarray

    @property
    def read(self) -> list[np.ndarray]:
        """What each block of the card that makes features made."""
        return [np.load(f) for f in sorted(self.media.parent.glob(f"{self.media.name}.*.npy"))]


def test_an_encoder_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    run, _ = new_run(tmp_path)
    learned = {"labelled": 1234, "epochs": [{"loss_video_video": 1.5}]}
    run.commit(run.round(1), {"round": 1, "updates": [learned]})
    words = r"the audio encoder of .* has random weights: no clip had audio"
    with pytest.raises(UserError, match=words):
        export([str(run.location), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists(), "nothing of the other, either"


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Taken]:
    """Exports of two runs, read by one interpreter without the package; by architecture."""
    base = tmp_path_factory.mktemp("taken")
    license = ["--license", "cc-by-4.0"]
    jobs = {
        "stock": (
            ["encoders.video=r2plus1d_18", "encoders.audio=resnet18"],
            {
                "video": ["--formats", "torchvision", "onnx", "torch-export"],
                "audio": ["--formats", "torchvision"],
            },
        ),
        "own": (
            ["encoders.video=r2plus1d_small", "encoders.audio=resnet18_vmz"],
            {
                "video": ["--formats", "torch-export", "--front-end"],
                "audio": ["--formats", "onnx", "torch-export", "--front-end", *license],
            },
        ),
    }
    return read_by_their_cards(base, jobs)


def read_by_their_cards(base: Path, jobs: Jobs) -> dict[str, Taken]:
    """Exports read by one interpreter without the package; by architecture."""
    found = {}
    for name, (overrides, options) in jobs.items():
        run, networks = new_run(base / name / "run", *overrides)
        for modality, network in networks.items():
            place = [str(base / name / "run"), str(base / name / "out"), "--modality", modality]
            export([*place, *options[modality]])
            media, features = media_and_features(run.config, modality, network)
            inputs = base / name / f"{modality}.safetensors"
            save_file(media, inputs)
            architecture = run.config.encoders.of(modality).name
            found[architecture] = Taken(base / name / "out" / modality, inputs, features)
    arguments = [str(path) for one in found.values() for path in (one.folder, one.media)]
    ended = subprocess.run(
        [sys.executable, "-I", "-B", "-c", READER, *arguments],
        cwd=base,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(base / "cache")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return found


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("r2plus1d_18", {"torchvision.pt", "model.onnx", "model.pt2"}),
        ("resnet18", {"torchvision.pt"}),
        ("r2plus1d_small", {"model.pt2"}),
        ("resnet18_vmz", {"model.onnx", "model.pt2"}),
    ],
)
def test_the_cards_code_gives_our_features_without_this_package(
    architecture: str, more: set[str], taken: dict[str, Taken]
) -> None:
    one = taken[architecture]
    files = FILES | PROCESSORS[one.folder.name] | more
    assert {path.name for path in one.folder.iterdir()} == files
    # One block for each file of weights, and one for transformers.
    assert len(one.read) == len(more) + 1 + HAS_TRANSFORMERS
    assert one.expected.std() > 0.01
    for features in one.read:
        np.testing.assert_allclose(features, one.expected, rtol=0, atol=1e-4)
    card = (one.folder / "README.md").read_text()
    assert ("import r2plus1d_18\n" in card) == (architecture == "r2plus1d_18")
    assert ("import resnet18\n" in card) == (architecture == "resnet18")


def test_encoders_without_batchnorm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every format that fits, by the card's own code and by ours."""
    here = "tests.encoders.layernorm_networks"
    monkeypatch.setitem(ARCHITECTURES["video"], "tiny", Architecture(f"{here}:video_convnet"))
    formats = ["--formats", "onnx", "torch-export"]
    settings = ["encoders.video=tiny", f"encoders.audio={here}:audio_convnet"]
    options = {"video": formats, "audio": [*formats, "--front-end"]}
    read = read_by_their_cards(tmp_path, {"layernorm": (settings, options)})
    for name, one in read.items():
        files = FILES | PROCESSORS[one.folder.name] | {"model.onnx", "model.pt2"}
        assert {path.name for path in one.folder.iterdir()} == files
        assert len(one.read) == 3 + HAS_TRANSFORMERS, name
        assert one.expected.std() > 0.01
        for features in one.read:
            np.testing.assert_allclose(features, one.expected, rtol=0, atol=1e-4)
        assert json.loads((one.folder / "config.json").read_text())["batchnorm_eps"] is None
        assert "BatchNorm" not in (one.folder / "README.md").read_text()
    for source in (tmp_path / "layernorm/out", tmp_path / "layernorm/run"):
        loaded = pipeline.load_encoder(source, "video")
        features = media_and_features(tiny(), "video", loaded)[1]
        np.testing.assert_allclose(features, read["tiny"].expected, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="names no encoder of this package: audio tests"):
        pipeline.load_encoder(tmp_path / "layernorm/out", "audio")
    place = [str(tmp_path / "layernorm/run"), str(tmp_path / "x"), "--modality", "video"]
    with pytest.raises(UserError, match="the format torchvision holds r2plus1d_18, which tiny"):
        export([*place, "--formats", "torchvision"])


def test_our_own_code_reads_the_folder(taken: dict[str, Taken]) -> None:
    for one in taken.values():
        modality = one.folder.name
        again = pipeline.load_encoder(one.folder.parent, modality)
        alone = pipeline.load_encoder(one.folder / "model.safetensors")
        assert all(map(torch.equal, again.state_dict().values(), alone.state_dict().values()))
        features = media_and_features(tiny(), modality, again)[1]
        np.testing.assert_allclose(features, one.expected, rtol=0, atol=1e-6)
        direct = pipeline.load_encoder(one.folder)
        assert type(direct) is type(again) is type(alone)
    with pytest.raises(UserError, match="holds the video encoder, not the audio one"):
        pipeline.load_encoder(taken["r2plus1d_18"].folder, "audio")


def test_the_card_says_how_it_was_trained(taken: dict[str, Taken]) -> None:
    card = (taken["resnet18_vmz"].folder / "README.md").read_text()
    for row in (
        "license: cc-by-4.0",
        "| method | xdc |",
        "| clusters (k) | 4 |",
        "| round | 1 of 3 |",
        "| clips learned from | 1,234 |",
        "| seed | 0 |",
        "| last epoch: loss video audio | 1.5 |",
    ):
        assert row in card
    assert not re.search(r"\$\w|\$\{", card)


def test_nothing_in_a_folder_names_this_machine(taken: dict[str, Taken]) -> None:
    """Graphs remember the source lines they were traced from, unless told not to."""
    for one in taken.values():
        for path in one.folder.iterdir():
            contents = [path.read_bytes()]
            if path.suffix == ".pt2":
                archive = zipfile.ZipFile(path)
                contents += [archive.read(name) for name in archive.namelist()]
            for content in contents:
                assert str(ROOT).encode() not in content, path
                assert sys.prefix.encode() not in content, path


def test_released_widths_are_rejected_for_torchvision_and_loaded_by_encoder_py(
    tmp_path: Path,
) -> None:
    run, _ = new_run(tmp_path / "run", "encoders.video=r2plus1d_18_xdc")
    out = tmp_path / "out"
    place = [str(tmp_path / "run"), str(out), "--modality", "video"]
    with pytest.raises(UserError, match="r2plus1d_18_xdc does not fit") as error:
        export([*place, "--formats", "torchvision"])
    assert "18 tensors differ: layer2.0.conv2.0.0.weight 288×128×1×3×3, not 230" in str(error.value)
    assert "\n" not in str(error.value)
    assert not out.exists()
    export(place)
    assert {p.name for p in (out / "video").iterdir()} == FILES | PROCESSORS["video"]
    loaded, ours = pipeline.load_encoder(out), pipeline.load_encoder(run.location, "video")
    clip = torch.randn(1, 3, 4, 24, 24)
    with torch.no_grad():
        assert torch.equal(loaded(clip), ours(clip))


def test_another_export_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    new_run(tmp_path / "run", "encoders.audio=resnet18")
    place = [str(tmp_path / "run"), str(tmp_path / "out"), "--modality", "audio"]
    export([*place, "--formats", "torchvision"])
    assert (tmp_path / "out/audio/torchvision.pt").exists()
    export([*place, "--formats", "safetensors"])
    assert {p.name for p in (tmp_path / "out/audio").iterdir()} == FILES | PROCESSORS["audio"]
    assert "torchvision.pt" not in (tmp_path / "out/audio/README.md").read_text()


def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(tmp_path / "run")
    place = [str(tmp_path / "run"), str(tmp_path / "out")]
    with pytest.raises(UserError, match="add --formats onnx or torch-export"):
        export([*place, "--front-end"])
    for license in ("mit\nevil: 1", "<script>alert(1)</script>", ""):
        with pytest.raises(UserError, match="no name of a licence"):
            export([*place, "--license", license])
    with pytest.raises(UserError, match="round 7 does not exist"):
        export([*place, "--round", "7"])
    with pytest.raises(UserError, match="is not a run yet"):
        export([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        export([*place, "--formats", "caffe"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"needs the package onnxruntime.*xdc-ray\[export\]"):
        export([*place, "--formats", "onnx"])
    assert not (tmp_path / "out").exists()


def test_to_a_bucket_and_back(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    _, networks = new_run(tmp_path / "run")
    export([str(tmp_path / "run"), "s3://media/taken", "--modality", "audio"])
    spectrogram = torch.randn(2, 1, 40, 40)
    with torch.no_grad():
        for place in ("s3://media/taken", "s3://media/taken/audio/model.safetensors"):
            assert torch.equal(
                pipeline.load_encoder(place)(spectrogram), networks["audio"](spectrogram)
            )
