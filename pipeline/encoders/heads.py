"""Classification heads: one linear layer over pseudo-labels, new in each round."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import nn

from pipeline.storage import Location


def new_head(dim: int, k: int, kind: str) -> nn.Sequential:
    """[dim → k]: a linear layer, weights N(0, 0.01), bias 0 (facebookresearch/deepcluster).

    New every round, because labels permute freely between two clusterings.

    Args:
        kind: ``linear``, or ``batchnorm``: after a BatchNorm without parameters. Average-pooled
            features of a new encoder lie several deviations from zero. Until the linear layer has
            unlearned their common part, it teaches the encoder little.
    """
    norm = nn.BatchNorm1d(dim, affine=False) if kind == "batchnorm" else nn.Identity()
    linear = nn.Linear(dim, k)
    nn.init.normal_(linear.weight, 0, 0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(norm, linear)


@torch.no_grad()
def folded(head: nn.Module) -> nn.Linear:
    """The head in eval mode, as one linear layer on the encoder's features."""
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
    """Safetensors of every head, `folded`: ``<name>.weight`` [k, d] and ``<name>.bias`` [k]."""
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, head in heads.items()
        for key, tensor in folded(head).state_dict().items()
    }
    place.write_bytes(safetensors.torch.save(tensors))
