"""The two encoders: built by name, saved and loaded as safetensors. Knows tensors, not Ray."""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.config import EncoderConfig
from pipeline.encoders import audio, video
from pipeline.encoders.heads import new_head
from pipeline.storage import Location

__all__ = ["build", "load_weights", "new_head", "save_weights"]


def build(config: EncoderConfig, seed: int) -> nn.ModuleDict:
    """Both encoders with random weights, ``{"video": …, "audio": …}``; each has a ``dim``.

    The same seed gives the same weights, whatever was drawn before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleDict(
            {
                "video": getattr(video, config.video)(),
                "audio": getattr(audio, config.audio)(),
            }
        )


def save_weights(modules: nn.Module, place: Location) -> None:
    """Write the state of `modules` as one safetensors file; appears whole or not at all."""
    state = {name: tensor.contiguous().cpu() for name, tensor in modules.state_dict().items()}
    place.write_bytes(save(state))


def load_weights(modules: nn.Module, place: Location) -> None:
    """Load a file of `save_weights` in place, strictly.

    Raises:
        RuntimeError: names or shapes differ; the message lists them.
    """
    state: dict[str, Tensor] = load(place.read_bytes())
    modules.load_state_dict(state)
