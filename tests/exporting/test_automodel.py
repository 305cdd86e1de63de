"""Exports in the Auto classes of transformers, and their processors against our own front end."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from av import VideoFrame
from safetensors.torch import save_file

import pipeline
from pipeline import encoders
from pipeline.clips.decoding.decoder import View
from pipeline.clips.decoding.scaling import to_rgb
from pipeline.encoders.frontend import FramesToInput, LogMel
from pipeline.exporting.folder import preprocessing
from pipeline.storage import Location
from tests.conftest import tiny
from tests.exporting import awkward_networks
from tests.exporting.exports import (
    CHECKED,
    WITHOUT_PACKAGE,
    export_all,
    media_and_features,
    of_other_packages,
)

pytest.importorskip("transformers", reason="needs the extra test, which has transformers")

from pipeline.exporting.hub.feature_extraction_xdc import XdcFeatureExtractor
from pipeline.exporting.hub.video_processing_xdc import XdcVideoProcessor

SCRIPT = Path(__file__).with_name("stock_check.py")
RUN_SCRIPT = f"""{WITHOUT_PACKAGE}
import runpy
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of `CHECKED` but torchvision's, which test_export.py has."""
    base = tmp_path_factory.mktemp("exports")
    ours = {name: job for name, job in CHECKED.items() if name != "stock"}
    export_all(base, ours | of_other_packages(base))
    put_awkward(base / "awkward", base / "own/out/audio")
    return base


def put_awkward(place: Path, like: Path) -> None:
    """An export as `like`, without graphs, of a network that transformers could load wrongly."""
    network, folder = awkward_networks.audio(), place / "out/audio"
    shutil.copytree(like, folder)
    for name in ("model.onnx", "model.pt2"):
        (folder / name).unlink()
    facts = json.loads((folder / "config.json").read_text())
    facts |= {"dim": network.dim, "function": "audio", "architecture": "awkward"}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "encoder.py").write_text(Path(awkward_networks.__file__).read_text())
    encoders.save_weights(network, Location.of(folder / "model.safetensors"))
    config = tiny("clips.audio.normalize=none")
    media, features = media_and_features(config, "audio", network)
    tensors = {**media, "expected": torch.from_numpy(features)}
    save_file(tensors, place / "audio.safetensors")


def test_every_way_of_loading_gives_our_features(exports: Path, tmp_path: Path) -> None:
    """By the script that anybody can run where only stock packages are."""
    ended = subprocess.run(
        [sys.executable, "-I", "-B", "-c", RUN_SCRIPT, str(SCRIPT), str(exports)],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1].startswith("7 folders, largest difference")
    for way, times in (("AutoModel", 7), ("safetensors", 7), ("ONNX at 1 and 7", 6)):
        assert sum(f"· {way}: " in line for line in lines) == times, ended.stdout
    assert sum("· torch.export at 1 and 7: " in line for line in lines) == 6


def test_folders_of_earlier_exports_load(exports: Path, tmp_path: Path) -> None:
    folder = exports / "own/out/audio"
    facts = json.loads((folder / "config.json").read_text())
    for key in ("auto_map", "architectures", "function_arguments"):
        del facts[key]
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(facts))
    old, new = pipeline.load_encoder(tmp_path), pipeline.load_encoder(folder)
    assert all(map(torch.equal, old.state_dict().values(), new.state_dict().values()))


def video_processor(*overrides: str) -> XdcVideoProcessor:
    """Made of JSON, as transformers makes it."""
    facts: dict[str, Any] = preprocessing(tiny(*overrides).clips, "video")
    return XdcVideoProcessor.from_dict(json.loads(json.dumps(facts)))


def audio_processor(*overrides: str) -> XdcFeatureExtractor:
    facts: dict[str, Any] = preprocessing(tiny(*overrides).clips, "audio")
    return XdcFeatureExtractor.from_dict(json.loads(json.dumps(facts)))


def pattern(width: int, height: int) -> np.ndarray:
    """uint8 [H, W, 3], grey: chroma would differ by the order of scaling and converting."""
    y, x = np.mgrid[:height, :width]
    grey = 127 + 60 * np.sin(x / 9) + 60 * np.sin(y / 7)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "short_side", "region"),
    [(24, 26, None), (64, 70, None), (112, 128, None), (200, 224, None), (24, 26, [11, 7, 61, 80])],
)
def test_frames_are_cut_and_scaled_as_when_embedding(
    size: int, short_side: int, region: list[int] | None
) -> None:
    """Averaged over areas, shrunk a little, and enlarged; upright and across."""
    settings = [f"clips.video.size={size}", f"clips.video.short_side={short_side}"]
    settings += [f"clips.video.train_short_side=[{short_side},{short_side}]"]
    processor = video_processor(*settings, *([f"clips.video.region={region}"] if region else []))
    view = View(size, short_side, 0.5, 0.5, None if region is None else tuple(region))
    for width, height in ((160, 120), (98, 130)):
        frame = VideoFrame.from_ndarray(pattern(width, height)).reformat(format="yuv420p")
        expected = to_rgb(frame, view)
        frames = np.stack([frame.to_ndarray(format="rgb24")] * processor.frames)
        found = processor(frames)["pixel_values"][0, :, 0]
        mean, std = (
            torch.tensor(value)[:, None, None] for value in (processor.mean, processor.std)
        )
        rgb = ((found * std + mean) * 255).permute(1, 2, 0).numpy()
        difference = rgb - expected
        # The decoder's conversion is up to two levels darker; a pixel to one side would be several.
        assert abs(difference.mean()) < 2.5
        assert np.abs(difference - difference.mean()).mean() < 0.7


def test_frames_of_the_encoders_size_are_taken_as_they_are() -> None:
    processor = video_processor()
    frames = torch.randint(0, 256, (2, 4, 24, 24, 3), dtype=torch.uint8)
    expected = FramesToInput()(frames)
    pictures = [list(clip.numpy()) for clip in frames]
    for given in (frames, frames.numpy(), list(frames), pictures):
        assert torch.equal(processor(given)["pixel_values"], expected)
    assert torch.equal(processor(frames[0])["pixel_values"], expected[:1])
    assert torch.equal(processor(pictures[0])["pixel_values"], expected[:1])
    as_numpy = processor(frames, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(as_numpy, expected.numpy())
    assert not torch.equal(processor(frames, do_resize=True)["pixel_values"], expected)


def test_the_clip_is_picked_as_when_embedding() -> None:
    """Frame i is the last one shown at the middle plus (i - (T - 1) / 2) / fps."""
    processor = video_processor()  # 4 frames at 12 a second
    frames = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 24, 24, 3)
    for count, fps, expected in (
        (4, None, [0, 1, 2, 3]),
        (9, None, [3, 4, 5, 6]),
        (10, 12, [3, 4, 5, 6]),
        (20, 24, [7, 9, 11, 13]),
        (10, 6, [4, 4, 5, 5]),
        (2, None, [0, 0, 1, 1]),
    ):
        found = processor(frames[:count], fps=fps)["pixel_values"][0]
        levels = (found[0, :, 0, 0] * processor.std[0] + processor.mean[0]) * 255
        assert levels.round().int().tolist() == expected, (count, fps)


def test_windows_of_sound_are_the_middle() -> None:
    for normalize in ("clip", "none"):
        override = f"clips.audio.normalize={normalize}"
        processor, front = audio_processor(override), LogMel(tiny(override).clips.audio)
        sound = 0.1 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
        middle = sound[2_000:18_000]
        for given in (sound, sound.numpy(), sound.tolist(), [sound], sound[None]):
            found = processor(given, sampling_rate=16_000)["input_values"]
            torch.testing.assert_close(found, front(middle[None]))
        short = torch.zeros(16_000)
        short[5_000:11_000] = sound[:6_000]
        found = processor([sound[:6_000], sound], sampling_rate=16_000)["input_values"]
        torch.testing.assert_close(found, front(torch.stack([short, middle])))
    assert processor.sampling_rate == 16_000


def test_an_encoder_of_waveforms_gets_them() -> None:
    """Where preprocessor_config.json has no settings of a spectrogram."""
    sound = torch.randn(2, 100)
    found = XdcFeatureExtractor(samples=80)(sound, sampling_rate=16_000)["input_values"]
    assert torch.equal(found, sound[:, 10:90])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((4, 24, 24, 3), np.float32), r"float32 \[4, 24, 24, 3\], not uint8"),
        (np.zeros((4, 3, 24, 24), np.uint8), r"permute \[T, 3, H, W\]"),
        (np.zeros((0, 24, 24, 3), np.uint8), "not uint8"),
        ([], "not uint8"),
    ],
)
def test_what_is_no_frames_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        video_processor()(given)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="leave out do_resize=False"):
        video_processor()(np.zeros((4, 30, 30, 3), np.uint8), do_resize=False)


@pytest.mark.parametrize(
    ("given", "rate", "words"),
    [
        (
            np.zeros(99, np.float32),
            44_100,
            r"44100 Hz, but this encoder takes 16000 Hz: torchaudio",
        ),
        (np.zeros(99, np.int16), 16_000, "int16, not float"),
        (np.zeros((2, 2, 9), np.float32), 16_000, r"shape \[2, 2, 9\]"),
        ([], 16_000, r"shape \[0\]"),
    ],
)
def test_what_is_no_sound_is_one_line(given: Any, rate: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        audio_processor()(given, sampling_rate=rate)
    assert "\n" not in str(error.value)


def test_copied_code_needs_stock_packages_alone() -> None:
    for name in ("modeling_xdc", "video_processing_xdc", "feature_extraction_xdc"):
        spec = importlib.util.find_spec(f"pipeline.exporting.hub.{name}")
        assert spec is not None
        assert spec.origin is not None
        assert "pipeline" not in Path(spec.origin).read_text()
