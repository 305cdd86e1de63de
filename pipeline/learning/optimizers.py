"""Optimisers of the encoders and their heads, and the learning rate over a round."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.config import LearningConfig


def new_optimizer(model: nn.Module, learning: LearningConfig) -> torch.optim.Optimizer:
    """SGD, AdamW or LARS; under the last two biases and BatchNorm's parameters are not decayed."""
    lr, decay = learning.lr, learning.weight_decay
    if learning.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=lr, momentum=learning.momentum, weight_decay=decay, fused=True
        )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    if learning.optimizer == "lars":
        trusted: dict[str, Any] = {"params": matrices, "trust_decay": decay}
        return Lars([trusted, {"params": vectors}], lr=lr, momentum=learning.momentum)
    decayed = {"params": matrices, "weight_decay": decay}
    return torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}], lr=lr, fused=True)


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
