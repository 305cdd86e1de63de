"""Tensors into an encoder that is ready to use.

The architecture is inferred from the names and shapes of tensors, never from a file's name.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.encoders.architectures import ARCHITECTURES, EPS, blank
from pipeline.encoders.weights import State, differing_tensors, in_one_line
from pipeline.errors import UserError
from pipeline.storage import Location


def of_modality(state: State, modality: str, place: Location) -> dict[str, torch.Tensor]:
    """The tensors of one of a run's two encoders, without the prefix.

    Raises:
        UserError: there are none; `place` is where they were looked for.
    """
    prefix = f"{modality}."
    chosen = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if not chosen:
        raise UserError(f"{place} holds no {modality} encoder")
    return chosen


def nearest(state: State, modality: str | None) -> tuple[str, str]:
    """Modality and name of the architecture whose tensors differ least from `state`."""
    differing = {
        (m, name): len(differing_tensors(state, blank(m, name)))
        for m, names in ARCHITECTURES.items()
        for name in names
        if modality in (None, m)
    }
    return min(differing, key=lambda key: differing[key])


def encoder_of(
    state: State, modality: str, name: str, place: Location, eps: float | None
) -> nn.Module:
    """The architecture of this name with these tensors, in eval mode on the CPU.

    Args:
        place: where they were read.
        eps: of every BatchNorm; None: PyTorch's.

    Raises:
        UserError: tensors differ from the architecture's; one line names them.
    """
    network = blank(modality, name)
    differing = differing_tensors(state, network)
    if differing:
        raise UserError(
            f"{place} fits no encoder; against the nearest, {name}, {in_one_line(differing)}"
        )
    # In a new dict: one that was saved with its BatchNorms' version would want the counters of
    # batches, which may be absent here.
    values = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    network.load_state_dict(values, assign=True)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eps = eps or EPS
    return network.eval()
