"""Sampling, spectrograms and frame transforms: clips to network inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.clips.sampling import augmented, centre_range, centred
from pipeline.config import AudioConfig, ClipsConfig
from pipeline.encoders.frontend import MEAN, STD, FramesToInput, LogMel


def test_a_clip_lies_inside_a_long_window_and_at_the_middle_of_a_short_one() -> None:
    config = ClipsConfig(jitter_s=0.1)  # 2 s of sound, 8/30 s of picture
    assert centre_range(10, 20, config) == (11, 19)
    assert centre_range(10, 10.5, config) == pytest.approx((10.15, 10.35))
    request = centred(10, 20, config, video=True, audio=False)
    assert (request.centre_s, request.crop_x, request.audio) == (15, 0.5, False)


def test_draws_fill_their_ranges_evenly() -> None:
    config = ClipsConfig()
    draws = [augmented(0, 10, config, True, True, (0, 1, n, 7)) for n in range(2000)]
    centres = np.array([draw.request.centre_s for draw in draws])
    sides = np.array([draw.request.short_side for draw in draws])
    assert 1 <= centres.min() < 1.05
    assert 8.95 < centres.max() <= 9
    # 2000 uniform draws: the mean is within 4.5 standard errors but for one time in 150,000.
    assert abs(centres.mean() - 5) < 4.5 * 8 / math.sqrt(12 * 2000)
    assert (sides.min(), sides.max()) == config.video.train_short_side
    assert abs(np.mean([draw.mirror for draw in draws]) - 0.5) < 4.5 * 0.5 / math.sqrt(2000)


def test_spectrogram_shows_a_tone_in_its_mel_band() -> None:
    config = AudioConfig(normalize="none")
    time = torch.arange(config.samples) / config.rate
    for hertz in (440.0, 3000.0):
        spectrogram = LogMel(config)(torch.sin(2 * math.pi * hertz * time)[None])
        assert spectrogram.shape == (1, 1, 40, 100)
        top = 2595 * math.log10(1 + 8000 / 700)  # HTK mel of Nyquist
        band = 2595 * math.log10(1 + hertz / 700) / top * 41 - 1
        assert abs(int(spectrogram[0, 0, :, 50].argmax()) - band) <= 1


def test_spectrogram_shows_a_click_at_its_time() -> None:
    wave = torch.zeros(1, 32_000)
    wave[0, 8000] = 1.0
    energy = LogMel(AudioConfig(normalize="none"))(wave)[0, 0].sum(dim=0)
    assert int(energy.argmax()) == 25  # a hop is 320 samples


@pytest.mark.parametrize("window_s", [0.3, 0.6, 1.0, 2.0, 2.7])
def test_spectrogram_has_its_frames_for_every_window(window_s: float) -> None:
    config = AudioConfig(window_s=window_s)
    spectrogram = LogMel(config)(torch.randn(2, config.samples))
    assert spectrogram.shape == (2, 1, 40, 100)


def test_normalised_spectrogram_forgets_loudness_and_silence_is_zero() -> None:
    wave = torch.randn((1, 32_000), generator=torch.Generator().manual_seed(0))
    front = LogMel(AudioConfig())
    torch.testing.assert_close(front(wave), front(0.05 * wave), atol=0.02, rtol=0)
    assert (front(torch.zeros(1, 32_000)) == 0).all()


def test_frames_are_normalised_and_reordered() -> None:
    frames = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    x = FramesToInput()(frames)
    assert x.shape == (2, 3, 8, 16, 16)
    expected = (float(frames[1, 5, 3, 4, 2]) / 255 - MEAN[2]) / STD[2]
    assert float(x[1, 2, 5, 3, 4]) == pytest.approx(expected, abs=1e-5)


def test_a_clip_is_mirrored_as_a_whole() -> None:
    frames = torch.randint(0, 256, (2, 3, 4, 4, 3), dtype=torch.uint8)
    front = FramesToInput()
    x = front(frames, torch.tensor([False, True]))
    plain = front(frames)
    assert torch.equal(x[0], plain[0])
    assert torch.equal(x[1], plain[1].flip(3))
