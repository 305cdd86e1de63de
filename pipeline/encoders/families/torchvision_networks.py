"""torchvision's networks for video, without their classifiers: ``torchvision:swin3d_t``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.ops import StochasticDepth

_CLASSIFIERS = ("fc", "head", "classifier")


class VideoNetwork(nn.Module):
    """float32 [B, 3, T, H, W] → float [B, dim].

    Names of parameters are torchvision's after ``net.``
    """

    input: dict[str, Any]

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        name = next(name for name in _CLASSIFIERS if hasattr(net, name))
        layers = [m for m in getattr(net, name).modules() if isinstance(m, nn.Linear | nn.Conv3d)]
        self.dim = int(layers[-1].weight.shape[1])
        setattr(net, name, nn.Identity())
        for module in net.modules():
            if isinstance(module, nn.Dropout | StochasticDepth):
                module.p = 0.0
        self.net = net

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        features: Tensor = self.net(x_BCTHW)
        return features


def network(name: str, pretrained: bool = False, **options: Any) -> VideoNetwork:
    """A network of `torchvision.models.video`, with random weights or its default ones.

    Raises:
        ValueError: there is no such network.
        TypeError: it has no such option.
    """
    known = models.list_models(module=models.video)
    if name not in known:
        raise ValueError(f"torchvision has no video network {name!r}; it has {', '.join(known)}")
    weights = models.get_model_weights(name).DEFAULT
    made = VideoNetwork(models.get_model(name, weights=weights if pretrained else None, **options))
    shown = weights.transforms()
    made.input = {"kind": "frames", "mean": tuple(shown.mean), "std": tuple(shown.std)}
    if name.startswith("mvit"):  # its places are learned, one by one
        made.input["settings"] = {"clips.video.frames": 16, "clips.video.size": 224}
    return made
