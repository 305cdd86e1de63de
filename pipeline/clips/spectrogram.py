"""Log-mel spectrograms, batched on the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from pipeline.config import AudioConfig

_FLOOR = 1e-6  # of mel power before the logarithm; digital silence becomes log(1e-6)


class LogMel(nn.Module):
    """waveform float32 [B, samples] → log-mel spectrogram float32 [B, 1, mels, frames].

    HTK mel scale from 0 to Nyquist, symmetric in time about the window: with ``center`` the n-th
    frame stands at n · hop. The hop is chosen so that the window gives ``spectrogram_frames``
    frames (the paper's 40×100 over 2 s: a hop of 20 ms).
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hop = max(config.samples // config.spectrogram_frames, 1)
        window = max(round(config.rate * config.fft_window_ms / 1000), hop)
        n_fft = 1 << max(window - 1, 511).bit_length()
        self.frames = config.spectrogram_frames
        self.normalize = config.normalize
        self.mel = MelSpectrogram(
            sample_rate=config.rate,
            n_fft=n_fft,
            win_length=window,
            hop_length=hop,
            n_mels=config.mels,
            center=True,
            power=2.0,
            mel_scale="htk",
            norm="slaney",
        )

    def forward(self, waveform_BS: Tensor) -> Tensor:
        x = torch.log(self.mel(waveform_BS.float()) + _FLOOR)[..., : self.frames]
        if self.normalize == "clip":
            mean = x.mean(dim=(1, 2), keepdim=True)
            deviation = x.std(dim=(1, 2), keepdim=True)
            x = (x - mean) / (deviation + 1e-5)
        return x.unsqueeze(1)
