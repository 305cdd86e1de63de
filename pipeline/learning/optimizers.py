"""Optimisers of an update, and how the learning rate goes over a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pipeline.config import EncoderConfig, LearningConfig

FACTOR = "factor"  # of a parameter group: what its learning rate is multiplied by
ADAPTS = 0.1  # rate of an encoder that began with weights, against that of its new head


def new_optimizer(
    model: nn.Module, learning: LearningConfig, trunks: Mapping[nn.Module, float] | None = None
) -> torch.optim.Optimizer:
    """SGD, AdamW or LARS; under the last two biases and BatchNorm's parameters are not decayed.

    Args:
        trunks: parts of the model that learn at a rate of their own, and their `FACTOR`.
    """
    lr, momentum, decay = learning.lr, learning.momentum, learning.weight_decay
    groups: list[dict[str, Any]] = []
    for parameters, factor in _parts(model, trunks or {}):
        of_all = {FACTOR: factor} if factor != 1 else {}
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        if learning.optimizer == "sgd":
            groups.append({"params": parameters, **of_all})
        elif learning.optimizer == "lars":
            groups.append({"params": matrices, "trust_decay": decay, **of_all})
            groups.append({"params": vectors, **of_all})
        else:
            groups.append({"params": matrices, "weight_decay": decay, **of_all})
            groups.append({"params": vectors, "weight_decay": 0.0, **of_all})
    if learning.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum, weight_decay=decay, fused=True)
    if learning.optimizer == "lars":
        return Lars(groups, lr=lr, momentum=momentum)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)


def trunk_factor(config: EncoderConfig, learning: LearningConfig, modality: str) -> float:
    """The `FACTOR` of an encoder."""
    if learning.trunk_lr is not None:
        return learning.trunk_lr / learning.lr
    return ADAPTS if config.of(modality).start else 1.0


def _parts(
    model: nn.Module, trunks: Mapping[nn.Module, float]
) -> Iterator[tuple[list[nn.Parameter], float]]:
    """Parameters and their factor: of each trunk that has one of its own, then all the others."""
    apart = {trunk: factor for trunk, factor in trunks.items() if factor != 1}
    taken = {id(p) for trunk in apart for p in trunk.parameters()}
    for trunk, factor in apart.items():
        yield list(trunk.parameters()), factor
    yield [p for p in model.parameters() if id(p) not in taken], 1.0


class Lars(torch.optim.SGD):
    """SGD whose step on each tensor is proportional to the tensor's own length (You et al. 2017).

    In parameter groups that have a ``trust_decay`` β the gradient g of a tensor w is replaced by
    η ‖w‖ / (‖g‖ + β ‖w‖) · (g + β w), η = 0.001; for large batches. Other groups are plain SGD.
    """

    TRUST = 0.001

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            decay = group.get("trust_decay")
            for tensor in group["params"] if decay is not None else ():
                if tensor.grad is not None:
                    length, gradient = tensor.norm(), tensor.grad.norm()
                    ratio = self.TRUST * length / (gradient + decay * length).clamp(min=1e-12)
                    # A tensor of zeros has no length to go by.
                    ratio = torch.where(length > 0, ratio, torch.ones_like(ratio))
                    tensor.grad.add_(tensor, alpha=decay).mul_(ratio)
        return super().step(closure)


def rate_factor(learning: LearningConfig, progress: float) -> float:
    """What the learning rate is multiplied by at `progress` in [0, 1) of the round."""
    if progress < learning.warmup:
        return (progress + 1e-3) / (learning.warmup + 1e-3)
    if learning.schedule == "step":
        return 0.1 ** sum(progress >= m for m in learning.step_milestones)
    if learning.schedule == "cosine":
        rest = (progress - learning.warmup) / max(1 - learning.warmup, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1.0
