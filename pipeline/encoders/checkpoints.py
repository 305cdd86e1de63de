"""Weights from elsewhere, and our own, into an encoder that is ready to use.

What a file holds is told by the names and shapes of its tensors, never by its own name: each
architecture has a set of its own.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.encoders import ARCHITECTURES, new_encoder
from pipeline.encoders.weights import State, differing_tensors, in_one_line, read_tensors
from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.storage import Location

_EPS = 1e-5  # of BatchNorm: PyTorch's default, which runs and torchvision's weights are made with
# Of the released XDC weights (HumamAlwassel/XDC, model/r2plus1d_18.py). Their momentum of 0.9 is
# Caffe2's, the share of the old statistic that is kept; in PyTorch's terms it is the default 0.1.
_RELEASED_EPS = 1e-3


def load_encoder(
    source: str | os.PathLike[str] | Location,
    modality: str | None = None,
    *,
    round: int | None = None,
    eps: float | None = None,
) -> nn.Module:
    """An encoder in eval mode on the CPU, with the weights of `source`.

    video float32 [B, 3, T, H, W], normalised → features float32 [B, dim];
    log-mel spectrogram float32 [B, 1, mels, frames] → features float32 [B, dim].

    Args:
        source: a folder of `jobs/export.py`; a run directory (its last finished round, or
            `round`); a ``.safetensors`` of ours; or a ``.pth`` / ``.pt`` with the state dict of
            torchvision's ``r2plus1d_18`` (with or without ``fc``), of a released XDC checkpoint, or
            of an encoder of ours. A path or URI.
        modality: ``video`` or ``audio``; needed where the source holds both.
        eps: of every BatchNorm. Given by the source where it is known: a ``.pth`` / ``.pt`` with
            the widths of ``r2plus1d_18_xdc`` is taken for released weights (1e-3), all else has
            PyTorch's 1e-5.

    Raises:
        UserError: there is nothing to load, the modality is not clear, or tensors fit no
            architecture; one line names those that differ.
    """
    place = Location.of(source)
    if modality is not None and modality not in ARCHITECTURES:
        raise UserError(f"unknown modality {modality!r}; choose {' or '.join(ARCHITECTURES)}")
    if (place / "config.yaml").exists():
        return _of_run(place, _chosen(modality, place), round, eps)
    if round is not None:
        raise UserError(f"{place} is not a run directory, so it has no round {round}")
    if place.info().is_file:
        return _of_file(place, modality, eps)
    folders = {m: place / m for m in ARCHITECTURES if (place / m / "config.json").exists()}
    if folders:
        modality = modality or (next(iter(folders)) if len(folders) == 1 else None)
        place = place / _chosen(modality, place)
    if (place / "config.json").exists():
        return _of_export(place, modality, eps)
    raise UserError(
        f"there is no encoder in {place}: give a run directory, a folder of jobs/export.py, or a "
        ".safetensors, .pth or .pt file"
    )


def _of_run(place: Location, modality: str, number: int | None, eps: float | None) -> nn.Module:
    run = Run.existing(place.full_uri)
    weights = run.finished_round(number).encoders
    state = _of_modality(read_tensors(weights), modality, weights)
    return _filled(modality, getattr(run.config.encoders, modality), state, weights, eps or _EPS)


def _of_export(place: Location, modality: str | None, eps: float | None) -> nn.Module:
    facts = (place / "config.json").read_json()
    held, architecture = facts.get("modality"), facts.get("architecture")
    if architecture not in ARCHITECTURES.get(held, ()):
        raise UserError(f"{place / 'config.json'} names no encoder of ours: {held} {architecture}")
    if modality not in (None, held):
        raise UserError(f"{place} holds the {held} encoder, not the {modality} one")
    weights = place / "model.safetensors"
    eps = eps or facts["batchnorm_eps"]
    return _filled(held, architecture, read_tensors(weights), weights, eps)


def _of_file(place: Location, modality: str | None, eps: float | None) -> nn.Module:
    state = read_tensors(place)
    if all(name.split(".")[0] in ARCHITECTURES for name in state):
        modality = _chosen(modality, place)
        state = _of_modality(state, modality, place)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    modality, architecture = _nearest(state, modality)
    if eps is None:
        pickled = not place.name.endswith(".safetensors")
        eps = _RELEASED_EPS if pickled and architecture == "r2plus1d_18_xdc" else _EPS
    return _filled(modality, architecture, state, place, eps)


def _chosen(modality: str | None, place: Location) -> str:
    if modality is None:
        raise UserError(f"{place} holds both encoders: say modality='video' or modality='audio'")
    return modality


def _of_modality(state: State, modality: str, place: Location) -> dict[str, torch.Tensor]:
    """The tensors of one of a run's two encoders, without the prefix."""
    prefix = f"{modality}."
    chosen = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if not chosen:
        raise UserError(f"{place} holds no {modality} encoder")
    return chosen


def _nearest(state: State, modality: str | None) -> tuple[str, str]:
    """Modality and architecture whose tensors differ least from `state`."""
    differing = {
        (m, name): len(differing_tensors(state, blank(m, name)))
        for m, names in ARCHITECTURES.items()
        for name in names
        if modality in (None, m)
    }
    return min(differing, key=lambda key: differing[key])


def blank(modality: str, architecture: str) -> nn.Module:
    """A network of shapes alone, without values or memory (torch's meta device)."""
    with torch.device("meta"):
        return new_encoder(modality, architecture)


def _filled(
    modality: str, architecture: str, state: State, place: Location, eps: float
) -> nn.Module:
    network = blank(modality, architecture)
    differing = differing_tensors(state, network)
    if differing:
        raise UserError(
            f"{place} fits no encoder; against the nearest, {architecture}, "
            f"{in_one_line(differing)}"
        )
    # In a new dict: one that was saved with its BatchNorms' version would want the counters of
    # batches, which may be absent here.
    values = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    network.load_state_dict(values, assign=True)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eps = eps
    return network.eval()
