"""Networks of transformers for video and sound: ``hf:MCG-NJU/videomae-base``, ``hf:folder``.

The configuration comes from the hub, its cache or a folder. Video: VideoMAE, V-JEPA 2 and others
that take frames; sound: AST, and HuBERT, wav2vec 2.0 and others that take the waveform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel
from transformers.audio_utils import mel_filter_bank
from transformers.utils import logging

_log = logging.get_logger(__name__)
# What draws at random while training.
_RANDOM = (
    *("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob"),
    *("activation_dropout", "feat_proj_dropout", "final_dropout", "layerdrop", "drop_path_rate"),
    "apply_spec_augment",
)
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class TransformersEncoder(nn.Module):
    """One model of transformers as an encoder."""

    input: dict[str, Any]
    arguments: dict[str, Any]  # with which `network` makes another one, without the hub

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.model: nn.Module = model
        self.dim = int(config.hidden_size)


class VideoTransformer(TransformersEncoder):
    """float32 [B, 3, T, H, W] → float [B, dim], the mean over the tokens."""

    def __init__(self, model: Any, config: Any) -> None:
        # V-JEPA 2's predictor is of its own training alone.
        super().__init__(model.encoder if config.model_type == "vjepa2" else model, config)
        _leave(model, "pooler")

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        tokens: Tensor = self.model(x_BCTHW.transpose(1, 2).contiguous()).last_hidden_state
        return tokens.mean(dim=1)


class WaveformTransformer(TransformersEncoder):
    """waveform float32 [B, samples] → float [B, dim], the mean over time."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        _leave(model, "masked_spec_embed")

    def forward(self, x_BS: Tensor) -> Tensor:
        states: Tensor = self.model(x_BS).last_hidden_state
        return states.mean(dim=1)


class SpectrogramTransformer(TransformersEncoder):
    """waveform float32 [B, samples] at 16 kHz → float [B, dim]: AST, with its own front end."""

    def __init__(self, model: Any, config: Any, mean: float, std: float) -> None:
        super().__init__(model, config)
        self.mean, self.std, self.length = mean, std, config.max_length
        self.front = KaldiFilterBank(config.num_mel_bins)

    def forward(self, x_BS: Tensor) -> Tensor:
        x = self.front(x_BS)[:, : self.length]
        x = F.pad(x, (0, 0, 0, self.length - x.shape[1]))
        features: Tensor = self.model((x - self.mean) / (2 * self.std)).pooler_output
        return features


def _leave(model: nn.Module, name: str) -> None:
    """What features do not depend on gets no gradient: training on several workers demands one."""
    part = getattr(model, name, None)
    if part is not None:
        part.requires_grad_(False)


class KaldiFilterBank(nn.Module):
    """waveform float32 [B, samples] at 16 kHz → log mel energies float32 [B, frames, mels].

    As Kaldi computes them with a Hann window of 25 ms every 10 ms, which AST was trained on.
    """

    window: Tensor
    mels: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(400, periodic=False), persistent=False)
        bank = mel_filter_bank(257, num_mels, 20, 8000, 16_000, None, "kaldi", True)
        self.register_buffer("mels", torch.from_numpy(bank).float(), persistent=False)

    def forward(self, x_BS: Tensor) -> Tensor:
        with torch.autocast(x_BS.device.type, enabled=False):
            frames = x_BS.float().unfold(1, 400, 160)
            frames = frames - frames.mean(dim=2, keepdim=True)
            before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
            power = torch.fft.rfft((frames - 0.97 * before) * self.window, n=512).abs() ** 2
            return (power @ self.mels).clamp(min=torch.finfo(torch.float32).eps).log()


def network(
    name: str = "",
    pretrained: bool = False,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> TransformersEncoder:
    """A network of transformers with random weights, or with those of that name.

    Args:
        name: on the hub, or a folder.
        config, facts: of the model and of its front end, in place of what is stored there.
        options: what to change in the configuration, for example ``num_hidden_layers=4``.

    Raises:
        OSError: there is no such model, or the hub cannot be reached.
        ValueError: the model takes neither frames nor sound.
    """
    facts = dict(_front_end(name) if facts is None else facts)
    if config is None:
        found = AutoConfig.from_pretrained(name, **options)
    else:
        found = AutoConfig.for_model(**config)
    for setting in _RANDOM:
        if value := getattr(found, setting, None):
            setattr(found, setting, type(value)(0))
    if pretrained:
        model = AutoModel.from_pretrained(name, config=found, dtype=torch.float32)
    else:
        model = AutoModel.from_config(found, dtype=torch.float32)
    made = _encoder(model.train(), found, facts)
    told = found.to_diff_dict() | {"model_type": found.model_type}
    made.arguments = {"config": told, "facts": facts}
    return made


def _encoder(model: Any, config: Any, facts: Mapping[str, Any]) -> TransformersEncoder:
    made: TransformersEncoder
    takes = getattr(model, "main_input_name", "")
    if takes.startswith("pixel_values"):
        made = VideoTransformer(model, config)
        sizes = {
            "clips.video.size": getattr(config, "image_size", None) or config.crop_size,
            "clips.video.frames": getattr(config, "num_frames", None),
        }
        wanted = {name: value for name, value in sizes.items() if value}
        statistics = {n: tuple(facts.get(f"image_{n}", _IMAGENET[n])) for n in _IMAGENET}
        made.input = {"kind": "frames", "settings": wanted, **statistics}
        return made
    if config.model_type == "audio-spectrogram-transformer":
        mean, std = facts.get("mean", -4.2677393), facts.get("std", 4.5689974)
        made = SpectrogramTransformer(model, config, mean, std)
        unit = False
    elif takes == "input_values":
        made, unit = WaveformTransformer(model, config), bool(facts.get("do_normalize", True))
    else:
        raise ValueError(f"a {config.model_type} of transformers takes neither frames nor sound")
    rate = facts.get("sampling_rate", 16_000)
    made.input = {"kind": "waveform", "unit": unit, "settings": {"clips.audio.rate": rate}}
    return made


def _front_end(name: str) -> dict[str, Any]:
    """What the files beside a model say of its front end; empty where there are none."""
    for kind in (AutoFeatureExtractor, AutoImageProcessor):
        try:
            found = kind.from_pretrained(name).to_dict()
        except (OSError, ValueError, ImportError, TypeError):
            continue
        keep = ("image_mean", "image_std", "mean", "std", "do_normalize", "sampling_rate")
        return {key: found[key] for key in keep if found.get(key) is not None}
    _log.warning(f"{name} does not say how its input is prepared: the usual figures are taken")
    return {}
