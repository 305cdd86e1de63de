"""Waveforms → input of an audio encoder of xdc-ray, for `transformers.AutoFeatureExtractor`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import logging

_log = logging.get_logger(__name__)


class XdcFeatureExtractor(FeatureExtractionMixin):
    """Cuts the window out of the middle and computes its log-mel spectrogram.

    Args:
        rate: samples a second that the encoder takes.
        samples: length of the window.
        mel_spectrogram: arguments of torchaudio's `MelSpectrogram`; None: the encoder takes the
            waveform itself.
        spectrogram_frames: of a spectrogram; further ones are cut off.
        normalize: ``clip``: each spectrogram gets mean 0 and deviation 1; ``none``.
        floor: added to mel power before the logarithm, or what it is divided by.
        deviation_floor: added to a spectrogram's deviation.
        facts: all else in preprocessor_config.json; of these ``unit`` brings each waveform that
            becomes no spectrogram to mean 0 and variance 1 (plus ``variance_floor``).
    """

    model_input_names = ["input_values"]  # noqa: RUF012 (transformers sets it on instances)

    def __init__(
        self,
        rate: int = 16_000,
        samples: int = 32_000,
        mel_spectrogram: dict[str, Any] | None = None,
        spectrogram_frames: int | None = None,
        normalize: str = "none",
        floor: float = 1e-6,
        deviation_floor: float = 1e-5,
        **facts: Any,
    ) -> None:
        super().__init__(**facts)
        self.rate = rate
        self.samples = samples
        self.mel_spectrogram = mel_spectrogram
        self.spectrogram_frames = spectrogram_frames
        self.normalize = normalize
        self.floor = floor
        self.deviation_floor = deviation_floor
        # Of encoders that hear the waveform, as `facts` may have them.
        self.unit = bool(facts.get("unit", False))
        self.variance_floor = float(facts.get("variance_floor", 1e-7))

    @property
    def sampling_rate(self) -> int:
        """As feature extractors of transformers name it."""
        return self.rate

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Waveforms of any length → ``input_values`` float32 [B, 1, mels, frames].

        Args:
            raw_speech: float in [-1, 1], mono, as an array, tensor or list [samples]; a batch
                [B, samples]; or a list of waveforms of any lengths. Where one is shorter than the
                window, zeros stand around it.
            sampling_rate: of the waveforms, in Hz; to be sure that it is the encoder's.
            return_tensors: ``pt`` or ``np``.

        Raises:
            ValueError: another sampling rate, whole numbers, or no waveform.
        """
        if sampling_rate is None:
            _log.warning(f"no sampling_rate was given: {self.rate} Hz is taken for granted")
        elif sampling_rate != self.rate:
            raise ValueError(
                f"sampling_rate is {sampling_rate} Hz, but this encoder takes {self.rate} Hz: "
                f"torchaudio.functional.resample(waveform, {sampling_rate}, {self.rate}) first"
            )
        windows = torch.stack([self._window(one) for one in _waveforms(raw_speech)])
        value = self._log_mel(windows) if self.mel_spectrogram else self._level(windows)
        return BatchFeature({"input_values": value.numpy() if return_tensors == "np" else value})

    def _window(self, waveform: Tensor) -> Tensor:
        """The middle, float32 [samples]."""
        start = (len(waveform) - self.samples) // 2
        kept = waveform[max(start, 0) : max(start, 0) + self.samples].float()
        before = max(-start, 0)
        after = self.samples - before - len(kept)
        return torch.nn.functional.pad(kept, (before, after))

    def _level(self, waveform_BS: Tensor) -> Tensor:
        if not self.unit:
            return waveform_BS
        variance, mean = torch.var_mean(waveform_BS, 1, correction=0, keepdim=True)
        return (waveform_BS - mean) / (variance + self.variance_floor).sqrt()

    def _log_mel(self, waveform_BS: Tensor) -> Tensor:
        assert self.mel_spectrogram is not None
        mel = MelSpectrogram(**self.mel_spectrogram).to(waveform_BS.device)
        power = mel(waveform_BS)[..., : self.spectrogram_frames]
        if self.normalize == "none":
            return torch.log(power + self.floor).unsqueeze(1)
        x = torch.log1p(power / self.floor)  # silence is exactly 0
        deviation = x.std((1, 2), keepdim=True) + self.deviation_floor
        return ((x - x.mean((1, 2), keepdim=True)) / deviation).unsqueeze(1)


def _waveforms(raw_speech: Any) -> list[Tensor]:
    """Each waveform of a batch, or the one that was given, float [samples]."""
    listed = isinstance(raw_speech, list | tuple)
    batch = raw_speech if listed and len(raw_speech) and np.ndim(raw_speech[0]) else [raw_speech]
    found: list[Tensor] = []
    for one in batch:
        tensor = one if isinstance(one, Tensor) else torch.tensor(np.asarray(one))
        if not tensor.is_floating_point():
            raise ValueError(
                f"the waveform is {str(tensor.dtype).removeprefix('torch.')}, not float in "
                "[-1, 1]: divide 16-bit samples by 32768"
            )
        if tensor.ndim not in (1, 2) or not tensor.numel():
            raise ValueError(
                f"the waveform has the shape {list(tensor.shape)}, not [samples] or [B, samples]: "
                "give mono samples, waveform.mean(0) of channels"
            )
        found += [tensor] if tensor.ndim == 1 else list(tensor)
    return found
