"""One update's network, loss and optimiser: tensors in, losses out; knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pipeline import encoders
from pipeline.clips.frontend import FramesToInput, LogMel
from pipeline.config import Config
from pipeline.embedding.memory_bank import MemoryBank
from pipeline.learning.optimizers import new_optimizer, rate_factor
from pipeline.learning.task import Heads, LearnerSpec
from pipeline.runtime.devices import autocast, on_device
from pipeline.storage import Location


class EncodersWithHeads(nn.Module):
    """The encoders that an update trains, each with one new head per clustering it predicts.

    forward: network inputs per modality → logits float [B, k] per ``<modality>_<clustering>``.

    Attributes:
        features: per modality float [B, d], of the last inputs.
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
        self.features = {m: found.detach() for m, found in features.items()}
        return {name: head(features[name.split("_")[0]]) for name, head in self.heads.items()}


class Learner:
    """Trains `EncodersWithHeads` on batches of decoded clips.

    Args:
        wrap: puts the network on the device and, with several workers, into DDP.
        bank: is given the features of every batch.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        config: Config,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module],
        bank: MemoryBank | None = None,
    ) -> None:
        heads = spec.heads
        self.frozen, self.bank = spec.frozen, bank
        self.config, self.device, self.heads = config, device, heads
        self.networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
        encoders.load_weights(self.networks, spec.weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(spec.key).generate_state(1)[0]))
            self.model = EncodersWithHeads(self.networks, heads, config.learning.head)
        if spec.frozen:
            self.model.encoders.requires_grad_(False)
        if config.learning.compile:
            for network in self.model.encoders.values():
                network.compile()
        if config.learning.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.wrapped = wrap(self.model)
        self.front: dict[str, nn.Module] = {
            "video": FramesToInput().to(device),
            "audio": LogMel(config.clips.audio).to(device),
        }
        self.optimizer = new_optimizer(self.model, config.learning)

    def step(
        self, batches: Sequence[Mapping[str, np.ndarray]], progress: float, workers: int = 1
    ) -> dict[str, Tensor]:
        """One optimiser step.

        Args:
            batches: this worker's part of the step's batches; their gradients are summed, so that
                the mean over `workers` is the mean over all batches of the step.
            progress: share of the round's steps that were taken, in [0, 1).

        Returns:
            Losses and accuracies, means over `batches`, still on the device; see `read`.
        """
        learning = self.config.learning
        rate = learning.lr * learning.step_batches * rate_factor(learning, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.wrapped.train()
        if self.frozen:
            self.model.encoders.eval()
        self.optimizer.zero_grad(set_to_none=True)
        seen = []
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else self._apart():
                losses, hits = self._losses(batch)
                (
                    torch.stack(list(losses.values())).sum() * (workers / learning.step_batches)
                ).backward()
            seen.append(_named(losses, "loss") | _named(hits, "accuracy"))
        if learning.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), learning.clip_grad_norm)
        self.optimizer.step()
        return {name: torch.stack([one[name] for one in seen]).mean() for name in seen[0]}

    def _apart(self) -> AbstractContextManager[Any]:
        """Gradients stay with their worker: only a step's last batch is summed over workers."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return nullcontext()

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss and accuracy on held-out clips, BatchNorm in eval mode."""
        self.model.eval()
        losses, hits = self._losses(batch, self.model)
        total = torch.stack(list(losses.values())).sum()
        named = _named(losses, "held_out_loss") | _named(hits, "held_out_accuracy")
        return read({"held_out_loss": total, **named})

    def _losses(
        self, batch: Mapping[str, np.ndarray], model: nn.Module | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Cross-entropy and share of right predictions per head, over the clips with its label."""
        inputs = {m: self._input(m, batch) for m in self.heads}
        with autocast(self.device, self.config.precision):
            logits = (model or self.wrapped)(inputs)
        if self.bank:
            self.bank.add(batch, self.model.features)
        losses, hits = {}, {}
        for name, scores in logits.items():
            modality, clustering = name.split("_", 1)
            label = np.where(batch[f"has_{modality}"], batch[f"label_{clustering}"], -1)
            target = on_device(label.astype(np.int64), self.device)
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
        tensor = on_device(data, self.device)
        if modality == "video" and mirror.any():
            return self.front["video"](tensor, on_device(mirror, self.device))
        return self.front[modality](tensor)

    def should_stop(self, held_out: list[float | None]) -> bool:
        """Whether the held-out loss has not fallen for ``patience`` epochs."""
        patience = self.config.learning.patience
        known = [loss for loss in held_out if loss is not None]
        if not patience or len(known) <= patience:
            return False
        return min(known[-patience:]) >= min(known[:-patience])

    def state(self) -> dict[str, Any]:
        """What `restore` takes: tensors of the model and of the optimiser."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, out: Location) -> None:
        """Write both encoders (the ones not trained as they were) and the heads."""
        encoders.save_weights(self.networks, out / "encoders.safetensors")
        encoders.save_heads(self.model.heads, out / "heads.safetensors")


def read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers in tensors of one element: the host waits here until the device has them."""
    return dict(zip(values, torch.stack(list(values.values())).tolist()))


def _named(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}_{name}": value.detach() for name, value in values.items()}
