"""One update's network, loss and optimiser: tensors in, losses out; knows nothing of Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import encoders
from pipeline.clips.spectrogram import LogMel
from pipeline.clips.transforms import FramesToInput
from pipeline.config import Config, LearningConfig
from pipeline.devices import autocast
from pipeline.storage import Location

Heads = Mapping[str, Mapping[str, int]]  # encoder → clustering it predicts → k


class EncodersWithHeads(nn.Module):
    """The encoders that an update trains, each with one new head per clustering it predicts.

    forward: network inputs per modality → logits float [B, k] per ``<modality>_<clustering>``.
    """

    def __init__(self, networks: nn.ModuleDict, heads: Heads, kind: str) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: networks[m] for m in heads})
        self.heads = nn.ModuleDict(
            {
                f"{m}_{name}": encoders.new_head(int(networks[m].dim), k, kind)  # type: ignore[arg-type]
                for m, clusterings in heads.items()
                for name, k in clusterings.items()
            }
        )

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        features = {m: self.encoders[m](x) for m, x in inputs.items()}
        return {name: head(features[name.split("_")[0]]) for name, head in self.heads.items()}


class Learner:
    """Trains `EncodersWithHeads` on batches of decoded clips.

    Args:
        heads: which encoder predicts which clusterings, and their k.
        weights: safetensors of both encoders.
        key: seeds the new heads.
        wrap: puts the network on the device and, with several workers, into DDP.
        frozen: the encoders stay as they are, BatchNorm's statistics included; the heads learn.
    """

    def __init__(
        self,
        heads: Heads,
        weights: Location,
        config: Config,
        key: tuple[int, ...],
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module],
        frozen: bool = False,
    ) -> None:
        self.frozen = frozen
        self.config, self.device, self.heads = config, device, heads
        self.networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
        encoders.load_weights(self.networks, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            self.model = EncodersWithHeads(self.networks, heads, config.learning.head)
        if frozen:
            self.model.encoders.requires_grad_(False)
        if config.learning.compile:
            for network in self.model.encoders.values():
                network.compile()
        self.wrapped = wrap(self.model)
        self.front: dict[str, nn.Module] = {
            "video": FramesToInput(config.clips.video).to(device),
            "audio": LogMel(config.clips.audio).to(device),
        }
        self.optimizer = new_optimizer(self.model, config.learning)

    def step(self, batch: Mapping[str, np.ndarray], progress: float) -> dict[str, float]:
        """One optimiser step; `progress` in [0, 1) is the share of the round's steps taken."""
        learning = self.config.learning
        rate = learning.lr * learning.workers * rate_factor(learning, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.wrapped.train()
        if self.frozen:
            self.model.encoders.eval()
        losses, hits = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        if learning.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), learning.clip_grad_norm)
        self.optimizer.step()
        return _named(losses, "loss") | _named(hits, "accuracy")

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss and accuracy on held-out clips, BatchNorm in eval mode."""
        self.model.eval()
        losses, hits = self._losses(batch, self.model)
        total = float(torch.stack(list(losses.values())).sum())
        named = _named(losses, "held_out_loss") | _named(hits, "held_out_accuracy")
        return {"held_out_loss": total, **named}

    def _losses(
        self, batch: Mapping[str, np.ndarray], model: nn.Module | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Cross-entropy and share of right predictions per head, over the clips with its label."""
        inputs = {m: self._input(m, batch) for m in self.heads}
        with autocast(self.device, self.config.learning.precision):
            logits = (model or self.wrapped)(inputs)
        losses, hits = {}, {}
        for name, scores in logits.items():
            modality, clustering = name.split("_", 1)
            target = torch.from_numpy(
                np.where(batch[f"has_{modality}"], batch[f"label_{clustering}"], -1)
            ).to(self.device, torch.int64)
            known = target >= 0
            # A sum over the known ones: with none of them the loss is 0, not nan.
            loss = F.cross_entropy(scores.float(), target, ignore_index=-1, reduction="sum")
            count = known.sum().clamp(min=1)
            losses[name] = loss / count
            hits[name] = ((scores.argmax(dim=1) == target) & known).sum() / count
        return losses, hits

    def _input(self, modality: str, batch: Mapping[str, np.ndarray]) -> Tensor:
        """A modality's network input [B, …].

        Places without this modality repeat others that have it, so that blanks never enter
        BatchNorm's statistics; their label is -1.
        """
        present = np.flatnonzero(batch[f"has_{modality}"])
        data = batch[modality]
        mirror = batch["mirror"]
        if 0 < len(present) < len(data):
            rows = np.where(
                batch[f"has_{modality}"], np.arange(len(data)), np.resize(present, len(data))
            )
            data, mirror = data[rows], mirror[rows]
        tensor = torch.from_numpy(np.array(data)).to(self.device, non_blocking=True)
        if modality == "video":
            return self.front["video"](tensor, torch.from_numpy(np.array(mirror)).to(self.device))
        return self.front[modality](tensor)

    def should_stop(self, held_out: list[float | None]) -> bool:
        """Whether the held-out loss has not fallen for ``patience`` epochs."""
        patience = self.config.learning.patience
        known = [loss for loss in held_out if loss is not None]
        if not patience or len(known) <= patience:
            return False
        return min(known[-patience:]) >= min(known[:-patience])

    def save(self, out: Location) -> None:
        """Write both encoders (the ones not trained as they were) and the heads."""
        encoders.save_weights(self.networks, out / "encoders.safetensors")
        heads = {name: encoders.folded(head) for name, head in self.model.heads.items()}
        encoders.save_weights(nn.ModuleDict(heads), out / "heads.safetensors")


def new_optimizer(model: nn.Module, learning: LearningConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; biases and BatchNorm's parameters are not decayed under AdamW."""
    if learning.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=learning.lr,
            momentum=learning.momentum,
            weight_decay=learning.weight_decay,
        )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": learning.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning.lr)


def rate_factor(learning: LearningConfig, progress: float) -> float:
    """What the learning rate is multiplied by at `progress` in [0, 1) of the round."""
    if progress < learning.warmup:
        return (progress + 1e-3) / (learning.warmup + 1e-3)
    if learning.schedule == "step":
        return learning.step_factor ** sum(progress >= m for m in learning.step_milestones)
    if learning.schedule == "cosine":
        rest = (progress - learning.warmup) / max(1 - learning.warmup, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1.0


def _named(values: Mapping[str, Tensor], prefix: str) -> dict[str, float]:
    return {f"{prefix}_{name}": float(value.detach()) for name, value in values.items()}
