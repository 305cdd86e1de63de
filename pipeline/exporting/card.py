"""The model card: what an exported encoder is, how it was trained, and code that loads it.

The code blocks are whole and use stock packages only; tests/exporting/test_export.py runs them, in
order, in an interpreter that does not have this package, after it has set ``frames`` or
``waveform``.
"""

from __future__ import annotations

import re
from string import Template
from typing import Any

from pipeline.exporting.training_data import data_rows

_CARD = Template(
    """\
---
$license_lines
library_name: transformers
pipeline_tag: feature-extraction
tags: [xdc, self-supervised-learning, custom_code, $modality]
---

# $architecture, encoder of $modality, pretrained with $method

$what → $dim features. Trained without any label, by audio-video clustering (the methods of
Alwassel et al., NeurIPS 2020, arXiv:1911.12667) with xdc-ray $xdc_ray_version.

## Use

With transformers, in this folder; the code that `trust_remote_code` allows is in this folder, too:

```python
$auto_model
```

$media_note

## Training

| | |
|---|---|
$training

### Data

| | |
|---|---|
$data

## Input

This code does what the processor does, for clips of the encoder's size. $input

```python
$prepare
```

## Load without transformers

In this folder, or with it on `sys.path`.
$load
## Use and limits

Use it for retrieval and clustering, and as a start for fine-tuning.$batchnorm The encoder tells
apart what its training videos showed and sounded like. It has their gaps and biases.

## Licence

Weights: `$license`. Code that comes with them: Apache 2.0. $media_licence
"""
)

_AUTO_MODEL = Template(
    """\
import torch
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained(".", trust_remote_code=True)
model = AutoModel.from_pretrained(".", trust_remote_code=True).eval()
with torch.inference_mode():
    features = model(**processor($call)).pooler_output"""
)

# By the kind of an encoder's input (encoders/contract.py) where texts are of the input.
_CALL = {"video": "frames", "audio": "waveform, sampling_rate=$rate"}

_MEDIA_NOTE = {
    "video": """\
`frames`: uint8 [T, H, W, 3], RGB, of any size, or a list of clips. `fps=` says how many frames a
second they are; without it, $fps. Frames of exactly $size×$size are taken as they are;
`do_resize=True` scales and cuts these too.""",
    "audio": """\
`waveform`: float in [-1, 1], mono, $rate Hz, of any length, or a list of waveforms. The middle
$window_s s are taken.""",
}

_WHAT = {
    "frames": "A clip of $frames frames at $fps fps, $size×$size RGB",
    "spectrogram": "$window_s s of audio at $rate Hz, as $mels×$spectrogram_frames log-mel values",
    "waveform": "$window_s s of audio at $rate Hz",
}

_INPUT = {
    "video": """\
`frames`: uint8 [B, $frames, $size, $size, 3], RGB, consecutive at $fps fps; the upright
frame${cut} scaled to a short side of $short_side, then its centre.""",
    "audio": """\
`waveform`: float32 [B, $samples] in [-1, 1], mono, $rate Hz: $window_s s$where.""",
}

_PREPARE = {
    "frames": """\
import json
import torch

settings = json.load(open("preprocessor_config.json"))
mean, std = torch.tensor(settings["mean"]), torch.tensor(settings["std"])


def prepare(frames):
    return ((frames.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3).contiguous()""",
    "waveform": """\
import json
import torch

settings = json.load(open("preprocessor_config.json"))


def prepare(waveform):
    if not settings["unit"]:
        return waveform
    variance, mean = torch.var_mean(waveform, 1, correction=0, keepdim=True)
    return (waveform - mean) / (variance + settings["variance_floor"]).sqrt()""",
    "spectrogram": """\
import json
import torch
from torchaudio.transforms import MelSpectrogram

settings = json.load(open("preprocessor_config.json"))
mel = MelSpectrogram(**settings["mel_spectrogram"])


def prepare(waveform):
    power = mel(waveform)[..., : settings["spectrogram_frames"]]
    if settings["normalize"] == "none":
        return torch.log(power + settings["floor"]).unsqueeze(1)
    x = torch.log1p(power / settings["floor"])  # silence is exactly 0
    deviation = x.std((1, 2), keepdim=True) + settings["deviation_floor"]
    return ((x - x.mean((1, 2), keepdim=True)) / deviation).unsqueeze(1)""",
}

_NETWORK = Template(
    """\
$network
network.load_state_dict($state)
with torch.inference_mode():
    features = network.eval()(prepare($media))"""
)

_ONNX = Template(
    """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
features = session.run(["features"], {"$input": $value.numpy()})[0]"""
)

_TORCH_EXPORT = Template(
    """\
program = torch.export.load("model.pt2").module()
with torch.inference_mode():
    features = program($value)"""
)


def model_card(
    facts: dict[str, Any], preprocessing: dict[str, Any], license: str, torchvision: str
) -> str:
    """The README beside the two JSON files; `torchvision`: as in `Architecture`."""
    modality, settings = facts["modality"], dict(preprocessing)
    eps, region = facts["batchnorm_eps"], settings.get("region")
    batchnorm = f" BatchNorm has eps {eps} and, in PyTorch's terms, momentum 0.1." if eps else ""
    settings["cut"] = f", cut to [x, y, width, height] = {region} and" if region else ""
    starts = settings.get("align") == "start"
    where = "from the start" if starts else "centred on the middle"
    settings["where"] = f", {where} of the frames"
    call = Template(_CALL[modality]).substitute(settings)
    return _CARD.substitute(
        facts,
        license=license,
        license_lines=_license_lines(license),
        auto_model=_AUTO_MODEL.substitute(call=call),
        media_note=Template(_MEDIA_NOTE[modality]).substitute(settings),
        media_licence="The licences of the training media are not known to the program.",
        data=_rows(data_rows(facts["training"]["data"])),
        method=facts["training"]["method"].upper(),
        what=Template(_WHAT[settings["kind"]]).substitute(settings),
        training=_training_rows(facts["training"]),
        input=Template(_INPUT[modality]).substitute(settings),
        prepare=_PREPARE[settings["kind"]],
        load=_loading(facts, settings["kind"], torchvision),
        batchnorm=batchnorm,
    )


def _license_lines(license: str) -> str:
    """Front matter; hubs know licences by lower-case names, and call what has none ``other``."""
    name = license.lower()
    if re.fullmatch(r"[a-z0-9.-]+", name):
        return f"license: {name}"
    return f"license: other\nlicense_name: {re.sub(r'[^a-z0-9.]+', '-', name).strip('-')}"


def _loading(facts: dict[str, Any], kind: str, torchvision: str) -> str:
    """A titled block of code for every file of weights."""
    function, given = facts["function"], ""
    media, name = ("frames", "video") if kind == "frames" else ("waveform", kind)
    network, title = torchvision, "torchvision's network"
    if not torchvision:
        if facts["function_arguments"]:
            given = '**json.load(open("config.json"))["function_arguments"]'
        network = f"from encoder import {function}\n\nnetwork = {function}({given})"
        title = "the network in `encoder.py` (torchvision has none like it)"
    value, inside = f"prepare({media})", ""
    if facts["front_end_in_graph"]:
        value, name, inside = media, media, ", what `prepare` does is inside"
    safetensors = _NETWORK.substitute(
        network=f"from safetensors.torch import load_file\n{network}",
        state='load_file("model.safetensors")',
        media=media,
    )
    pickled = 'torch.load("torchvision.pt", weights_only=True)'
    stock = _NETWORK.substitute(network=network, state=pickled, media=media)
    codes = {
        "safetensors": (f"`model.safetensors`, {title}", safetensors),
        "torchvision": ("`torchvision.pt`, the same for `torch.load`", stock),
        "onnx": (f"`model.onnx`{inside}", _ONNX.substitute(input=name, value=value)),
        "torch-export": (f"`model.pt2`{inside}", _TORCH_EXPORT.substitute(value=value)),
    }
    blocks = (codes[name] for name in facts["formats"])
    return "".join(f"\n{title}:\n\n```python\n{code}\n```\n" for title, code in blocks)


def _training_rows(training: dict[str, Any]) -> str:
    learning = training["learning"]
    rows = {
        "method": training["method"],
        "clusters (k)": training["k"],
        "round": f"{training['round']} of {training['rounds']}",
        "clips learned from": f"{training['clips']:,}",
        "seed": training["seed"],
        "encoders": " and ".join(_named(training["encoders"][m]) for m in ("video", "audio")),
        "learning": f"{learning['optimizer']}, lr {learning['lr']}, up to {learning['epochs']:g} "
        f"epochs a round, {learning['workers']} × {learning['batch_size']} clips a step",
        **{
            f"last epoch: {name.replace('_', ' ')}": f"{value:.4g}"
            for name, value in training["metrics"].items()
            if isinstance(value, int | float)
        },
    }
    if training["round"] == 0:
        rows["note"] = "round 0: random weights, nothing learned yet"
    return _rows(rows)


def _named(encoder: str | dict[str, Any]) -> str:
    """As the settings were dumped: the name alone, or what it began with besides."""
    if isinstance(encoder, str):
        return encoder
    start = f", begun with {encoder['start']}" if encoder["start"] else ""
    return f"{encoder['name']}{start}"


def _rows(rows: dict[str, Any]) -> str:
    """Of a table in Markdown."""
    return "\n".join(
        f"| {name} | {'none' if value == '' else value} |" for name, value in rows.items()
    )
