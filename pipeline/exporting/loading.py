"""An encoder from wherever its weights lie: a run, an exported folder, or a file."""

from __future__ import annotations

import os

from torch import nn

from pipeline.encoders.architectures import ARCHITECTURES, architecture
from pipeline.encoders.weights import (
    encoder_of,
    nearest,
    of_modality,
    read_tensors,
    saved_eps,
)
from pipeline.errors import UserError, parsing
from pipeline.run import Run
from pipeline.storage import Location


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
        eps: of every BatchNorm; None: the source's. A ``.pth`` / ``.pt`` with the widths of
            ``r2plus1d_18_xdc`` counts as released weights (1e-3); others have PyTorch's 1e-5.

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
    folders = [m for m in ARCHITECTURES if (place / m / "config.json").exists()]
    if folders:
        modality = modality or (folders[0] if len(folders) == 1 else None)
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
    state = of_modality(read_tensors(weights), modality, weights)
    eps = eps or saved_eps(weights).get(modality)
    return encoder_of(state, modality, run.config.encoders.of(modality).name, weights, eps)


def _of_export(place: Location, modality: str | None, eps: float | None) -> nn.Module:
    facts = (place / "config.json").read_json()
    with parsing(place / "config.json", "the facts of an exported encoder"):
        held, name = str(facts["modality"]), str(facts["architecture"])
        has = facts["batchnorm_eps"]  # null of networks without BatchNorm
        eps = eps or (None if has is None else float(has))
    if name not in ARCHITECTURES.get(held, ()):
        # Never import what a file names: folders are passed on.
        raise UserError(
            f"{place / 'config.json'} names no encoder of this package: {held} {name}; README.md "
            "beside it has code that loads any"
        )
    if modality not in (None, held):
        raise UserError(f"{place} holds the {held} encoder, not the {modality} one")
    weights = place / "model.safetensors"
    return encoder_of(read_tensors(weights), held, name, weights, eps)


def _of_file(place: Location, modality: str | None, eps: float | None) -> nn.Module:
    state = read_tensors(place)
    if all(name.split(".")[0] in ARCHITECTURES for name in state):
        modality = _chosen(modality, place)
        state = of_modality(state, modality, place)
        if place.name.endswith(".safetensors"):
            eps = eps or saved_eps(place).get(modality)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    modality, name = nearest(state, modality)
    if eps is None and not place.name.endswith(".safetensors"):
        eps = architecture(modality, name).released_eps
    return encoder_of(state, modality, name, place, eps)


def _chosen(modality: str | None, place: Location) -> str:
    if modality is None:
        raise UserError(f"{place} holds both encoders: say modality='video' or modality='audio'")
    return modality
