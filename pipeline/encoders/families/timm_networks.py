"""timm's networks for images, over the frames of a clip: ``timm:vit_small_patch16_224``."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn


class ImageNetwork(nn.Module):
    """float32 [B, 3, T, H, W] → float [B, dim], the mean over the frames' features.

    Names of parameters are timm's after ``net.``
    """

    input: dict[str, Any]

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.dim: int = getattr(net, "head_hidden_size", None) or net.num_features  # type: ignore[assignment]

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frames = x_BCTHW.shape[2]
        features: Tensor = self.net(x_BCTHW.transpose(1, 2).flatten(0, 1))
        return features.unflatten(0, (-1, frames)).mean(dim=1)


def network(name: str, pretrained: bool = False, **options: Any) -> ImageNetwork:
    """A network of timm without its classifier, with random weights or its default ones.

    Args:
        options: of `timm.create_model`, for example ``img_size=112``.

    Raises:
        RuntimeError: there is no such network.
        TypeError: it has no such option.
    """
    net = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    made = ImageNetwork(net)
    facts: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    made.input = {"kind": "frames", "mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    if facts.get("fixed_input_size"):
        size = options.get("img_size", facts["input_size"][-1])
        made.input["settings"] = {"clips.video.size": size}
    return made
