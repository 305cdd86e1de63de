"""Load exports with stock packages, offline: ``python tests/exporting/stock_check.py OUT``.

For an environment that has torch, torchvision, torchaudio, transformers, safetensors, onnxruntime
and, as one of the exports needs it, timm, and not this package. OUT is what ``python -m
tests.exporting.exports OUT`` wrote, in an environment that has. Prints a line for each file and way
of loading, with the largest difference of a feature from ours; leaves with 1 if one is above 1e-4.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoModel, AutoProcessor

transformers.logging.disable_progress_bar()
TOLERANCE = 1e-4
MEDIA = {"video": "frames", "audio": "waveform"}
INPUT = {"video": "pixel_values", "audio": "input_values"}
KINDS = {"video": ("AutoVideoProcessor", "AutoImageProcessor"), "audio": ("AutoFeatureExtractor",)}


class Folder:
    """One exported encoder, media, and the features that it must make of them."""

    def __init__(self, place: Path, tensors: dict[str, Tensor]) -> None:
        self.place = place
        self.modality = place.name
        self.facts = json.loads((place / "config.json").read_text())
        self.media = tensors[MEDIA[self.modality]]
        self.expected = tensors["expected"].numpy()
        self.processor = AutoProcessor.from_pretrained(place, trust_remote_code=True)

    def inputs(self, media: Any) -> Any:
        rate = {} if self.modality == "video" else {"sampling_rate": self.processor.sampling_rate}
        return self.processor(media, **rate)

    def graph_input(self, size: int) -> np.ndarray:
        media = self.media[:size]
        if not self.facts["front_end_in_graph"]:
            media = self.inputs(media)[INPUT[self.modality]]
        return media.numpy()

    def ways(self) -> Iterator[tuple[str, Callable[[], list[tuple[np.ndarray, int]]]]]:
        """Names of the ways to load it, and what gives features with the number of their clips."""
        yield "AutoModel", self._auto_model
        yield "safetensors", self._safetensors
        if (self.place / "model.onnx").exists():
            yield "ONNX at 1 and 7", self._onnx
        if (self.place / "model.pt2").exists():
            yield "torch.export at 1 and 7", self._torch_export

    @torch.inference_mode()
    def _auto_model(self) -> list[tuple[np.ndarray, int]]:
        model = AutoModel.from_pretrained(self.place, trust_remote_code=True).eval()
        config = AutoConfig.from_pretrained(self.place, trust_remote_code=True)
        assert config.dim == self.expected.shape[1]
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            self.processor.save_pretrained(saved)
            assert _names(Path(saved)) == _names(self.place)
            again = AutoModel.from_pretrained(saved, trust_remote_code=True).eval()
            processors = [AutoProcessor.from_pretrained(saved, trust_remote_code=True)]
        for kind in KINDS[self.modality]:
            loader = getattr(transformers, kind)
            processors.append(loader.from_pretrained(self.place, trust_remote_code=True))
        inputs = self.inputs(self.media)
        found = [one(**inputs) for one in (model, again)]
        for processor in processors:
            self.processor = processor
            found += [model(**self.inputs(self.media)), model(**self.inputs(list(self.media)))]
        for output in found:
            assert output.pooler_output.dtype == torch.float32
            assert output["pooler_output"] is output.pooler_output is output[0]
        one = model(**self.inputs(self.media[0])).pooler_output.numpy()
        return [(one, 1), *((output.pooler_output.numpy(), 7) for output in found)]

    @torch.inference_mode()
    def _safetensors(self) -> list[tuple[np.ndarray, int]]:
        with _module(self.place / "encoder.py") as module:
            network = getattr(module, self.facts["function"])(**self.facts["function_arguments"])
        network.load_state_dict(load_file(self.place / "model.safetensors"))
        for one in network.eval().modules():
            if isinstance(one, _BatchNorm):
                one.eps = self.facts["batchnorm_eps"]
        return [(network(self.inputs(self.media)[INPUT[self.modality]]).numpy(), 7)]

    def _onnx(self) -> list[tuple[np.ndarray, int]]:
        import onnxruntime

        path, providers = str(self.place / "model.onnx"), ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path, providers=providers)
        name = session.get_inputs()[0].name
        return [(session.run(None, {name: self.graph_input(n)})[0], n) for n in (1, 7)]

    @torch.inference_mode()
    def _torch_export(self) -> list[tuple[np.ndarray, int]]:
        program = torch.export.load(self.place / "model.pt2").module()
        return [(program(torch.from_numpy(self.graph_input(n))).numpy(), n) for n in (1, 7)]


def _names(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


@contextmanager
def _module(file: Path) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("encoder", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["encoder"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["encoder"]


def main(base: Path) -> int:
    with suppress(ModuleNotFoundError):
        importlib.import_module("pipeline")
        sys.exit("this package can be imported here: nothing would be proven")
    worst = 0.0
    checked = sorted(base.glob("*/out/*/config.json"))
    for config in checked:
        place = config.parent
        folder = Folder(place, load_file(place.parents[1] / f"{place.name}.safetensors"))
        for way, load in folder.ways():
            difference = 0.0
            for features, count in load():
                expected = folder.expected[:count]
                assert features.shape == expected.shape, (features.shape, expected.shape)
                difference = max(difference, float(np.abs(features - expected).max()))
            print(f"{folder.facts['architecture']} · {way}: {difference:.1e}", flush=True)
            worst = max(worst, difference)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{len(checked)} folders, largest difference {worst:.1e}, {versions}")
    return int(not checked or not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
