"""Encoders that begin with weights: ``encoders.*.start``, from wherever these lie.

Round 0 is then made of them, and their features are clustered first. The digest of each is kept in
round 0's seal.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.encoders import build, pretrained_encoder, save_weights
from pipeline.encoders.architectures import ARCHITECTURES, EPS, FAMILIES, architecture, shaped
from pipeline.encoders.weights import (
    differing_tensors,
    in_one_line,
    load_weights,
    nearest,
    of_modality,
    read_tensors,
    saved_eps,
    set_eps,
)
from pipeline.errors import UserError, parsing
from pipeline.manifest import Damaged, Manifest, digest_of
from pipeline.run import Run
from pipeline.storage import Location
from pipeline.telemetry.console import say

PRETRAINED = "pretrained"
_CLASSIFIERS = ("fc.", "head.", "classifier.")  # what encoders leave out of others' networks
# What of a spectrogram an encoder depends on; a clip may be longer or shorter.
_SOUND = ("rate", "mels", "fft_window_ms", "normalize")

State = dict[str, Tensor]


Starts = dict[str, dict[str, str]]  # modality → ``source`` and ``digest`` of what it began with


def start_with(config: Config, weights: Location, before: Starts) -> Starts:
    """Put the encoders that begin with weights in the place of the random ones in this file.

    Args:
        before: what the run began with, where its round 0 has to be made again.

    Raises:
        UserError: weights cannot be read, do not fit the settings, or are others than the run
            began with; one line says how.
    """
    begun = {m: read_start(config, m) for m in config.encoders.started}
    found = {
        m: {"source": config.encoders.of(m).start, "digest": digest(network)}
        for m, network in begun.items()
    }
    for modality in found.keys() & before.keys():
        if found[modality] != before[modality]:
            raise UserError(
                f"{found[modality]['source']} has other weights now than the run began with: begin "
                "another run, or put back what was there"
            )
    if begun:
        networks = build(config.encoders, seed=config.seed)
        load_weights(networks, weights)
        networks.update(begun)
        save_weights(networks, weights)
    return found


def starts_of(zero: Location) -> Starts:
    """What a run began with, by the seal of its round 0; nothing where that cannot be read."""
    with suppress(Damaged):
        if sealed := Manifest.read(zero):
            return dict(sealed.made_of.get("starts", {}))
    return {}


def check_starts(config: Config, starts: Starts) -> None:
    """Say so where what a run began with is another now; the run keeps what it began with."""
    for modality, noted in starts.items():
        source = noted["source"]
        if _is_name(source):
            continue
        try:
            now = digest(read_start(config, modality))
        except UserError as error:
            say(f"the {modality} encoder began with {source}, which cannot be read now: {error}")
            continue
        if now != noted["digest"]:
            say(
                f"warning: {source} has other weights now than the {modality} encoder began with; "
                "the run keeps those"
            )


def digest(network: nn.Module) -> str:
    state = sorted(network.state_dict().items())
    parts = [f"{n} {tuple(t.shape)}".encode() + t.contiguous().numpy().tobytes() for n, t in state]
    return digest_of(b"\0".join(parts))


def read_start(config: Config, modality: str) -> nn.Module:
    """The encoder of the settings with the weights that it begins with, in training mode.

    Raises:
        UserError: there are none, they fit another network, or they were made of other clips.
    """
    chosen = config.encoders.of(modality)
    source, name = chosen.start, chosen.name
    if _is_name(source):
        if source not in (PRETRAINED, name):
            raise UserError(_other(source, modality, name, f"it is {source}"))
        if name in ARCHITECTURES[modality]:
            raise UserError(
                f"encoders.{modality}.start={source} needs a network of another package, such as "
                "torchvision:r2plus1d_18; for one of ours, give a file of weights"
            )
        with torch.random.fork_rng(devices=[]):
            return pretrained_encoder(modality, name)
    place, _, number = source.partition("#")
    if number and not number.isdecimal():
        raise UserError(f"encoders.{modality}.start={source}: after # stands the number of a round")
    state, eps = _read(Location.of(place), number, modality, config)
    network = shaped(modality, name)
    state = _named_as(network, state)
    if differing := differing_tensors(state, network):
        found = nearest(state, modality)[1]
        raise UserError(_other(source, modality, name, in_one_line(differing), found))
    values = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    network.load_state_dict(values, assign=True)
    if eps is None and source.endswith((".pth", ".pt")):
        released = architecture(modality, name).released_eps
        eps = released if released != EPS else None
    if eps is not None:
        set_eps(network, eps)
    return network.train()


def _is_name(source: str) -> bool:
    return source == PRETRAINED or source.partition(":")[0] in FAMILIES


def _read(
    place: Location, number: str, modality: str, config: Config
) -> tuple[State, float | None]:
    """Tensors without a prefix, and the eps of their BatchNorms where the source says one."""
    if (place / "config.yaml").exists():
        run = Run.existing(place.full_uri)
        weights = run.finished_round(int(number) if number else None).encoders
        theirs = run.config.clips.model_dump(mode="json")
        _check_clips(modality, theirs[modality], config, place)
        state = of_modality(read_tensors(weights), modality, weights)
        return state, saved_eps(weights).get(modality)
    if number:
        raise UserError(f"{place} is not a run directory, so it has no round {number}")
    if not place.info().is_file:
        return _exported(place, modality, config)
    state = read_tensors(place)
    eps = None
    if all(name.split(".")[0] in ARCHITECTURES for name in state):
        state = of_modality(state, modality, place)
        eps = saved_eps(place).get(modality) if place.name.endswith(".safetensors") else None
    return state, eps


def _exported(place: Location, modality: str, config: Config) -> tuple[State, float | None]:
    folder = place / modality if (place / modality / "config.json").exists() else place
    if not (folder / "config.json").exists():
        raise UserError(
            f"there are no weights in {place}: give a run, a folder of jobs/export.py, or a "
            ".safetensors, .pth or .pt file"
        )
    facts = (folder / "config.json").read_json()
    with parsing(folder / "config.json", "the facts of an exported encoder"):
        held, eps = str(facts["modality"]), facts["batchnorm_eps"]
    if held != modality:
        raise UserError(f"{folder} holds the {held} encoder, not the {modality} one")
    _check_clips(modality, (folder / "preprocessor_config.json").read_json(), config, folder)
    return read_tensors(folder / "model.safetensors"), None if eps is None else float(eps)


def _check_clips(modality: str, theirs: dict[str, object], config: Config, place: Location) -> None:
    """An encoder of other spectrograms would see nothing that it knows."""
    if modality != "audio":
        return
    ours = config.clips.audio.model_dump(mode="json")
    wanted = [
        f"clips.audio.{name}={theirs[name]} (it is {ours[name]})"
        for name in _SOUND
        if name in theirs and theirs[name] != ours[name]
    ]
    if wanted:
        raise UserError(f"the encoder in {place} knows other sound: set {' and '.join(wanted)}")


def _named_as(network: nn.Module, state: State) -> State:
    """The tensors of an encoder, of which others' files may have a classifier, or no prefix."""
    expected = network.state_dict()
    if not expected.keys() & state.keys():
        (prefix, *_) = {name.partition(".")[0] for name in expected}
        state = {f"{prefix}.{name}": tensor for name, tensor in state.items()}
    return {
        name: tensor
        for name, tensor in state.items()
        if name in expected or not _of_classifier(name)
    }


def _of_classifier(name: str) -> bool:
    return name.startswith(_CLASSIFIERS) or name.partition(".")[2].startswith(_CLASSIFIERS)


def _other(source: str, modality: str, name: str, how: str, found: str = "") -> str:
    advice = f"; encoders.{modality}.name={found} is nearest" if found not in ("", name) else ""
    return f"encoders.{modality}.start={source} does not fit the encoder {name}: {how}{advice}"
