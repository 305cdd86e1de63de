"""Classification heads: one linear layer over pseudo-labels, new in each round unless reused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import nn

from pipeline.storage import Location


def new_head(dim: int, k: int, kind: str) -> nn.Sequential:
    """[dim → k]: a linear layer, weights N(0, 0.01), bias 0 (facebookresearch/deepcluster).

    New every round, because labels permute freely between two clusterings, unless `HeadsBefore`
    undoes that.

    Args:
        kind: ``linear``, or ``batchnorm``: behind a BatchNorm without parameters. Average-pooled
            features of a new encoder lie several deviations from zero, and until the linear layer
            has unlearned their common part it teaches the encoder little.
    """
    norm = nn.BatchNorm1d(dim, affine=False) if kind == "batchnorm" else nn.Identity()
    linear = nn.Linear(dim, k)
    nn.init.normal_(linear.weight, 0, 0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(norm, linear)


@torch.no_grad()
def folded(head: nn.Module) -> nn.Linear:
    """The head as it is in evaluation, as one linear layer on the encoder's features."""
    assert isinstance(head, nn.Sequential)
    norm, linear = head
    assert isinstance(linear, nn.Linear)
    plain = nn.Linear(linear.in_features, linear.out_features, device=linear.weight.device)
    plain.load_state_dict(linear.state_dict())
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        plain.weight.mul_((norm.running_var + norm.eps).rsqrt())
        plain.bias.sub_(plain.weight @ norm.running_mean)
    return plain


def save_heads(heads: nn.ModuleDict, place: Location) -> None:
    """Safetensors of every head, `folded`: ``<name>.weight`` [k, d] and ``<name>.bias`` [k]; of a
    BatchNorm also ``mean`` and ``deviation`` [d], by which `HeadsBefore` unfolds them."""
    tensors: dict[str, torch.Tensor] = {}
    for name, head in heads.items():
        assert isinstance(head, nn.Sequential)
        found, norm = dict(folded(head).state_dict()), head[0]
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            found["mean"] = norm.running_mean
            found["deviation"] = (norm.running_var + norm.eps).sqrt()
        tensors |= {f"{name}.{key}": t.detach().cpu().contiguous() for key, t in found.items()}
    place.write_bytes(safetensors.torch.save(tensors))


@dataclass(frozen=True)
class HeadsBefore:
    """Heads of the last round's same update, to begin with.

    Attributes:
        place: where `save_heads` put them.
        matching: clustering → int64 [k], for each of its clusters the one before it
            (`measures.matching`).
    """

    place: Location
    matching: Mapping[str, np.ndarray]

    @torch.no_grad()
    def into(self, heads: nn.ModuleDict) -> None:
        """Overwrite the heads, which are named ``<modality>_<clustering>``."""
        stored = safetensors.torch.load(self.place.read_bytes())
        for name, head in heads.items():
            order = torch.from_numpy(self.matching[name.split("_", 1)[1]])
            weight, bias = stored[f"{name}.weight"][order], stored[f"{name}.bias"][order]
            assert isinstance(head, nn.Sequential)
            norm, linear = head
            assert isinstance(linear, nn.Linear)
            if isinstance(norm, nn.BatchNorm1d):
                mean, deviation = stored[f"{name}.mean"], stored[f"{name}.deviation"]
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(deviation.square() - norm.eps)
                bias = bias + weight @ mean
                weight = weight * deviation
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
