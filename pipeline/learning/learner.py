"""One update's network, loss and optimiser: tensors in, losses out; knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import encoders
from pipeline.config import Config
from pipeline.embedding.memory_bank import MemoryBank
from pipeline.learning.optimizers import new_optimizer, rate_factor, set_rate, trunk_factor
from pipeline.learning.task import Heads, LearnerSpec
from pipeline.runtime.devices import autocast, on_device
from pipeline.storage import Location

Batch = dict[str, Any]  # as `DecodeSlots` makes it


class EncodersWithHeads(nn.Module):
    """The encoders that an update trains, each with one new head per clustering it predicts.

    forward: network inputs per modality → logits float [B, k] per ``<modality>_<clustering>``.
    Afterwards `features` are those of the inputs, per modality float [B, d].
    """

    def __init__(self, networks: nn.ModuleDict, heads: Heads, kind: str) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: networks[m] for m in heads})
        self.heads = nn.ModuleDict()
        for m, clusterings in heads.items():
            for name, k in clusterings.items():
                self.heads[f"{m}_{name}"] = encoders.new_head(int(networks[m].dim), k, kind)  # type: ignore[arg-type]

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        features = {m: self.encoders[m](x) for m, x in inputs.items()}
        self.features = {m: found.detach() for m, found in features.items()}
        return {name: head(features[name.split("_")[0]]) for name, head in self.heads.items()}


class Learner:
    """Trains `EncodersWithHeads` on batches of decoded clips; `bank` gets all their features.

    `wrap` puts the network on the device and, with several workers, into DDP.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        config: Config,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module],
        bank: MemoryBank | None = None,
    ) -> None:
        self.spec, self.config, self.device, self.bank = spec, config, device, bank
        self.networks = encoders.channels_last(encoders.build(config.encoders, seed=0))
        encoders.load_weights(self.networks, spec.weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of(spec.key))
            self.model = EncodersWithHeads(self.networks, spec.heads, config.learning.head)
        self._still = self._freeze()
        if config.learning.compile:
            for network in self.model.encoders.values():
                network.compile()
        if config.learning.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.wrapped = wrap(self.model)
        # Gradients stay with their worker: only a step's last batch is summed over workers.
        self._apart = getattr(self.wrapped, "no_sync", nullcontext)
        self.front = encoders.front_ends(self.networks, config.clips).to(device)
        trunks = {
            network: trunk_factor(config.encoders, config.learning, m)
            for m, network in self.model.encoders.items()
        }
        self.optimizer = new_optimizer(self.model, config.learning, trunks)

    def step(self, batches: list[Batch], progress: float, workers: int = 1) -> dict[str, Tensor]:
        """One optimiser step; returns mean losses and accuracies, still on the device (`read`).

        Args:
            batches: this worker's part of the step's batches; their gradients are summed, so that
                the mean over `workers` is the mean over all batches of the step.
            progress: share of the round's steps that were taken, in [0, 1).
        """
        learning = self.config.learning
        rate = learning.lr * learning.step_batches * rate_factor(learning, progress)
        set_rate(self.optimizer, rate)
        self.wrapped.train()
        for module in self._still:
            module.eval()
        self.optimizer.zero_grad(set_to_none=True)
        seen = []
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else self._apart():
                loss, values = self._losses(batch, self.wrapped)
                (loss * (workers / learning.step_batches)).backward()
            seen.append(values)
        if learning.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), learning.clip_grad_norm)
        self.optimizer.step()
        return {name: torch.stack([one[name] for one in seen]).mean() for name in seen[0]}

    def _freeze(self) -> list[nn.Module]:
        """Take from training what stays as it is; return the modules that stay in eval mode."""
        networks = self.model.encoders
        if self.spec.frozen:
            networks.requires_grad_(False)
            return list(networks.values())
        return [
            module
            for modality, network in networks.items()
            for module in encoders.freeze(network, self.config.encoders.of(modality).frozen)
        ]

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Loss and accuracy on held-out clips, BatchNorm in eval mode."""
        self.model.eval()
        loss, values = self._losses(batch, self.model)
        named = {f"held_out_{name}": value for name, value in values.items()}
        return read({"held_out_loss": loss, **named})

    def _losses(self, batch: Batch, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed cross-entropy; loss and accuracy of each head, over the clips with its label."""
        inputs = {m: self._input(m, batch) for m in self.spec.heads}
        # What a network draws while training depends on the batch alone, not on who takes it.
        torch.manual_seed(_seed_of((*self.spec.key, int(batch["slot"]))))
        with autocast(self.device, self.config.precision):
            logits = model(inputs)
        if self.bank:
            self.bank.add(batch, self.model.features)
        losses, accuracies = {}, {}
        for name, scores in logits.items():
            modality, clustering = name.split("_", 1)
            label = np.where(batch[f"has_{modality}"], batch[f"label_{clustering}"], -1)
            target = on_device(label.astype(np.int64), self.device)
            known = target >= 0
            # A sum over the known ones: with none of them the loss is 0, not nan.
            loss = F.cross_entropy(scores.float(), target, ignore_index=-1, reduction="sum")
            count = known.sum().clamp(min=1)
            losses[f"loss_{name}"] = loss / count
            right = (scores.argmax(dim=1) == target) & known
            accuracies[f"accuracy_{name}"] = right.sum() / count
        total = torch.stack(list(losses.values())).sum()
        return total, {name: loss.detach() for name, loss in losses.items()} | accuracies

    def _input(self, modality: str, batch: Batch) -> Tensor:
        """A modality's network input [B, …].

        Blanks (label -1) repeat other clips, so that they never enter BatchNorm's statistics.
        """
        data, mirror, present = batch[modality], batch["mirror"], batch[f"has_{modality}"]
        if 0 < present.sum() < len(data):
            others = np.resize(np.flatnonzero(present), len(data))
            rows = np.where(present, np.arange(len(data)), others)
            data, mirror = data[rows], mirror[rows]
        tensor = on_device(data, self.device)
        if modality == "video" and mirror.any():
            return self.front["video"](tensor, on_device(mirror, self.device))
        return self.front[modality](tensor)

    def should_stop(self, held_out: list[float | None]) -> bool:
        """Whether the held-out loss has not fallen for ``patience`` epochs."""
        patience = self.config.learning.patience
        known = [loss for loss in held_out if loss is not None]
        enough = 0 < patience < len(known)
        return enough and min(known[-patience:]) >= min(known[:-patience])

    def state(self) -> dict[str, Any]:
        """What `restore` takes: tensors of the model and of the optimiser."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def not_finite(self) -> list[str]:
        """Names of the model's and the optimiser's tensors that hold NaN or infinity."""
        found = dict(self.model.state_dict())
        for number, kept in enumerate(self.optimizer.state.values()):
            found |= {f"{number}.{key}": t for key, t in kept.items() if isinstance(t, Tensor)}
        return encoders.not_finite(found)

    def save(self, out: Location) -> None:
        """Write both encoders (the ones not trained as they were) and the heads."""
        encoders.save_weights(self.networks, out / "encoders.safetensors")
        encoders.save_heads(self.model.heads, out / "heads.safetensors")


def read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers in tensors of one element: the host waits here until the device has them."""
    return dict(zip(values, torch.stack(list(values.values())).tolist()))


def _seed_of(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])
