"""Classification heads: one linear layer over pseudo-labels, thrown away after each round."""

from __future__ import annotations

from torch import nn


def new_head(dim: int, k: int) -> nn.Linear:
    """Linear [dim → k], weights N(0, 0.01), bias 0 (facebookresearch/deepcluster, main.py).

    New every round, because labels permute freely between two clusterings.
    """
    head = nn.Linear(dim, k)
    nn.init.normal_(head.weight, 0, 0.01)
    nn.init.zeros_(head.bias)
    return head
