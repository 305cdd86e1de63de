"""Files of tensors: written whole or not at all, read safely, and made into encoders.

The architecture is inferred from the names and shapes of tensors, never from a file's name.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import pyarrow.fs
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.encoders.architectures import ARCHITECTURES, blank, shaped
from pipeline.errors import UserError
from pipeline.storage import Location

State = Mapping[str, Tensor]

_EPS = ".batchnorm_eps"  # how keys of a file's metadata end
_NAMED = 24  # differing tensors that an error names; the 18 of r2plus1d_18_xdc fit
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which trainers keep weights


def save_weights(modules: nn.Module, place: Location) -> None:
    """Write the state of `modules` as one safetensors file, whole or not at all.

    With it goes the eps of encoders to which `set_eps` gave one.

    Raises:
        UserError: a tensor holds NaN or infinity.
    """
    state = {name: tensor.contiguous().cpu() for name, tensor in modules.state_dict().items()}
    if broken := not_finite(state):
        raise UserError(f"{place} was not written: {_broken(broken, state)}")
    eps = {f"{n}{_EPS}": repr(m.given_eps) for n, m in modules.named_children() if _has_eps(m)}
    place.write_bytes(save(state, metadata={"format": "pt", **eps}))


def load_weights(modules: nn.Module, place: Location) -> None:
    """Load a file of `save_weights` in place, strictly.

    Raises:
        UserError: names or shapes differ; one line names them.
    """
    state = read_tensors(place)
    differing = differing_tensors(state, modules)
    if differing:
        raise UserError(f"{place} does not fit these encoders: {in_one_line(differing)}")
    modules.load_state_dict(dict(state))
    for name, eps in saved_eps(place).items():
        set_eps(modules.get_submodule(name), eps)


def set_eps(network: nn.Module, eps: float) -> None:
    """Give every BatchNorm the eps that its weights were made with."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eps = eps
            network.given_eps = eps  # type: ignore[assignment]


def saved_eps(place: Location) -> dict[str, float]:
    """Name of an encoder → eps of its BatchNorms, where a safetensors file says one."""

    def header(fs: pyarrow.fs.FileSystem, path: str) -> bytes:
        with fs.open_input_file(path) as file:  # which begins with JSON, and its length before it
            return file.read_at(int.from_bytes(file.read_at(8, 0), "little"), 8)

    said = json.loads(place.patiently(header)).get("__metadata__", {})
    return {k.removesuffix(_EPS): float(value) for k, value in said.items() if k.endswith(_EPS)}


def _has_eps(network: nn.Module) -> bool:
    return hasattr(network, "given_eps")


def read_tensors(place: Location) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file, on the CPU.

    Pickled files are read with torch's restricted unpickler, so that no code in them runs. Weights
    may lie under ``state_dict`` or ``model``; their names may begin with ``module.`` (DDP).

    Raises:
        UserError: there is no such file, it holds anything but named tensors, or one of them
            holds NaN or infinity.
    """
    if not place.info().is_file:
        raise UserError(f"there is no file {place}")
    if not place.name.endswith((".safetensors", ".pth", ".pt")):
        raise UserError(f"{place} is not a file of weights: give .safetensors, .pth or .pt")
    data = place.read_bytes()
    try:
        if place.name.endswith(".safetensors"):
            return _named_tensors(load(data), place)
        _check_packing(data)
        tree = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{place} is not a whole safetensors file: {error}") from None
    except Exception:  # the unpickler raises whatever a wrong byte leads to
        raise UserError(
            f"{place} is not a file of plain tensors; save the network's state_dict() with "
            "torch.save or safetensors"
        ) from None
    return _named_tensors(tree, place)


def of_modality(state: State, modality: str, place: Location) -> dict[str, Tensor]:
    """The tensors of one of a run's two encoders, without the prefix.

    Raises:
        UserError: there are none; `place` is where they were looked for.
    """
    prefix = f"{modality}."
    chosen = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if not chosen:
        raise UserError(f"{place} holds no {modality} encoder")
    return chosen


def nearest(state: State, modality: str | None) -> tuple[str, str]:
    """Modality and name of the architecture whose tensors differ least from `state`."""
    differing = {
        (m, name): len(differing_tensors(state, blank(m, name)))
        for m, names in ARCHITECTURES.items()
        for name in names
        if modality in (None, m)
    }
    return min(differing, key=lambda key: differing[key])


def encoder_of(
    state: State, modality: str, name: str, place: Location, eps: float | None
) -> nn.Module:
    """The architecture of this name with these tensors, in eval mode on the CPU.

    Args:
        place: where they were read; eps: of every BatchNorm, None: the architecture's.

    Raises:
        UserError: tensors differ from the architecture's; one line names them.
    """
    network = shaped(modality, name)
    differing = differing_tensors(state, network)
    if differing:
        raise UserError(
            f"{place} fits no encoder; against the nearest, {name}, {in_one_line(differing)}"
        )
    # A new dict: by the version saved with BatchNorm's state, torch would demand batch counters.
    values = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    network.load_state_dict(values, assign=True)
    if eps is not None:
        set_eps(network, eps)
    return network.eval()


def differing_tensors(state: State, network: nn.Module) -> list[str]:
    """How `state` differs from what `network` holds: ``name 64×3×7×7, not 64×1×7×7`` and so on.

    ``num_batches_tracked`` may be absent: weights from Caffe2 have no such counter.
    """
    expected = network.state_dict()
    differing = [
        f"{name} {_shape(state[name])}, not {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    differing += [
        f"{name} is missing"
        for name in expected
        if name not in state and not name.endswith("num_batches_tracked")
    ]
    return differing + [f"{name} is unknown" for name in state if name not in expected]


def in_one_line(differing: list[str]) -> str:
    """``2 tensors differ: …; …``, the first ones by name."""
    named = "; ".join(differing[:_NAMED])
    more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    count = f"{len(differing)} tensors differ" if len(differing) > 1 else "1 tensor differs"
    return f"{count}: {named}{more}"


def _check_packing(data: bytes) -> None:
    """Raise ValueError of a zip file that holds more than its bytes; torch packs nothing."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(data):
                raise ValueError


def _is_backed(tensor: Tensor) -> bool:
    """Whether every value is stored: strides of 0 could make a terabyte of one."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _named_tensors(tree: Any, place: Location) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    named = isinstance(tree, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tree.items()
    )
    if not named or not tree:
        raise UserError(f"{place} holds no state dict (tensors by name)")
    if not all(map(_is_backed, tree.values())):
        raise UserError(
            f"{place} claims to hold more values than it has bytes, or no plain tensors"
        )
    if broken := not_finite(tree):
        raise UserError(
            f"{place} cannot be used: {_broken(broken, tree)}; the training that wrote it diverged"
        )
    return {name.removeprefix("module."): tensor for name, tensor in tree.items()}


def not_finite(state: State) -> list[str]:
    """Names of the tensors that hold NaN or infinity; a GPU is waited for once."""
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    if not names:
        return []
    finite = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    return [name for name, is_finite in zip(names, finite) if not is_finite]


def _broken(names: list[str], state: State) -> str:
    """``82 of 126 tensors hold NaN or infinity (the first: …)``"""
    return f"{len(names)} of {len(state)} tensors hold NaN or infinity (the first: {names[0]})"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
