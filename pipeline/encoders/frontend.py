"""The front end: decoded clips → network inputs, batched on the device.

Video is mirrored, normalised and reordered. Audio becomes a log-mel spectrogram, or stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from pipeline.config import AudioConfig, ClipsConfig
from pipeline.encoders.contract import MEAN, STD, Input

FLOOR = 1e-6  # added to mel power before the logarithm; digital silence becomes log(1e-6)
VARIANCE_FLOOR = 1e-7  # added to a waveform's variance, as by Wav2Vec2FeatureExtractor
DEVIATION_FLOOR = 1e-5  # added to a clip's deviation, which is 0 in digital silence


def front_ends(
    networks: Mapping[str, nn.Module] | nn.ModuleDict, clips: ClipsConfig
) -> nn.ModuleDict:
    """What goes before each encoder, by modality."""
    return nn.ModuleDict({m: front_end(m, network, clips) for m, network in networks.items()})


def front_end(modality: str, network: nn.Module, clips: ClipsConfig) -> nn.Module:
    """Decoded clips of a modality → what this encoder wants (`contract.Input`)."""
    wanted = Input.of(network, modality)
    if modality == "video":
        return FramesToInput(wanted.mean, wanted.std)
    return LogMel(clips.audio) if wanted.kind == "spectrogram" else Waveform(wanted.unit)


class FramesToInput(nn.Module):
    """uint8 frames [B, T, H, W, 3] → float32 input [B, 3, T, H, W], channels last in memory.

    A clip is mirrored as a whole, never frame by frame (as FAIR's VMZ does).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, frames_BTHWC: Tensor, mirror_B: Tensor | None = None) -> Tensor:
        if mirror_B is not None:
            mirrored = frames_BTHWC.flip(3)
            frames_BTHWC = torch.where(mirror_B.view(-1, 1, 1, 1, 1), mirrored, frames_BTHWC)
        x = (frames_BTHWC.float() / 255 - self.mean) / self.std
        return x.permute(0, 4, 1, 2, 3)


def mel_settings(config: AudioConfig) -> dict[str, Any]:
    """Arguments of torchaudio's `MelSpectrogram`: plain values, also for JSON."""
    hop = max(config.samples // config.spectrogram_frames, 1)
    window = max(round(config.rate * config.fft_window_ms / 1000), hop)
    return {
        "sample_rate": config.rate,
        "n_fft": 1 << max(window - 1, 511).bit_length(),
        "win_length": window,
        "hop_length": hop,
        "n_mels": config.mels,
        "center": True,
        "power": 2.0,
        "mel_scale": "htk",
        "norm": "slaney",
    }


class LogMel(nn.Module):
    """waveform float32 [B, samples] → log-mel spectrogram float32 [B, 1, mels, frames].

    HTK mel scale from 0 to Nyquist, symmetric in time about the window: with ``center`` the n-th
    frame stands at n · hop. The hop is chosen so that the window gives ``spectrogram_frames``
    frames (the paper's 40×100 over 2 s: a hop of 20 ms).
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.frames = config.spectrogram_frames
        self.normalize = config.normalize
        self.mel = MelSpectrogram(**mel_settings(config))

    def forward(self, waveform_BS: Tensor) -> Tensor:
        power = self.mel(waveform_BS.float())[..., : self.frames]
        if self.normalize == "none":
            x = torch.log(power + FLOOR)
        else:
            # The same less a constant, which the mean removes too; but silence is exactly 0 here,
            # so that no rounding error of its mean is divided by DEVIATION_FLOOR.
            x = torch.log1p(power / FLOOR)
            mean = x.mean(dim=(1, 2), keepdim=True)
            deviation = x.std(dim=(1, 2), keepdim=True)
            x = (x - mean) / (deviation + DEVIATION_FLOOR)
        return x.unsqueeze(1)


class Waveform(nn.Module):
    """waveform float32 [B, samples] as it is, or each clip brought to mean 0 and variance 1."""

    def __init__(self, unit: bool) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, waveform_BS: Tensor) -> Tensor:
        x = waveform_BS.float()
        if not self.unit:
            return x
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) / (variance + VARIANCE_FLOOR).sqrt()
