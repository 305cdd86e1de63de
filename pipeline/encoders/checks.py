"""What is refused of encoders before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import Config
from pipeline.encoders.architectures import ARCHITECTURES, blank, new_encoder
from pipeline.encoders.contract import Input
from pipeline.encoders.frontend import front_end
from pipeline.errors import UserError


def check_encoders(config: Config) -> None:
    """Refuse encoders that cannot be made, or that do not fit the other settings.

    Raises:
        UserError: a network lacks its ``dim``, wants other clips, or needs larger batches.
    """
    for modality in ARCHITECTURES:
        name = getattr(config.encoders, modality).name
        ours = name in ARCHITECTURES[modality]
        network = blank(modality, name) if ours else new_encoder(modality, name)
        if not isinstance(getattr(network, "dim", None), int):
            raise UserError(
                f"the encoder {name} has no attribute dim, the number of its features: set it in "
                "the network's __init__"
            )
        if differing := _differing(Input.of(network, modality).settings, config):
            raise UserError(f"the encoder {name} wants {' and '.join(differing)}")
        batch_size = config.learning.batch_size
        if batch_size < 2 and any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise UserError(
                f"learning.batch_size={batch_size} gives the BatchNorm of the encoder {name} no "
                "variance: set it to at least 2"
            )
        if not ours:
            _try(network, modality, name, config)


def _differing(wanted: Mapping[str, Any], config: Config) -> list[str]:
    """Settings that are not as an encoder wants them: ``clips.video.frames=16 (it is 8)``."""
    found = {name: reduce(getattr, name.split("."), config) for name in wanted}
    return [f"{n}={value} (it is {found[n]})" for n, value in wanted.items() if found[n] != value]


@torch.no_grad()
def _try(network: nn.Module, modality: str, name: str, config: Config) -> None:
    """Raises UserError if the network does not take two clips of these settings."""
    video, audio = config.clips.video, config.clips.audio
    clips: dict[str, torch.Tensor] = {
        "video": torch.zeros((2, video.frames, video.size, video.size, 3), dtype=torch.uint8),
        "audio": torch.zeros((2, audio.samples)),
    }
    try:
        features = network.eval()(front_end(modality, network, config.clips)(clips[modality]))
    except Exception as error:  # whatever code of others raises
        said = str(error).strip().partition("\n")[0]
        sizes = (
            f"{video.frames} frames of {video.size}²"
            if modality == "video"
            else f"{audio.window_s} s"
        )
        raise UserError(f"the encoder {name} does not take clips of {sizes}: {said}") from error
    if features.shape != (2, network.dim):
        shape = "×".join(map(str, features.shape))
        raise UserError(f"the encoder {name} gives {shape} for two clips, not 2×{network.dim}")
