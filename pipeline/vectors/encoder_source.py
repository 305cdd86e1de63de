"""Whose encoders embed: a run's, an export's, those of a file of weights, or of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline import encoders, methods, settings
from pipeline.config import AudioConfig, ClipsConfig, Config, EncoderConfig, VideoConfig
from pipeline.encoders.architectures import FAMILIES
from pipeline.encoders.checks import check_encoders
from pipeline.encoders.weights import (
    differing_tensors,
    in_one_line,
    nearest,
    of_modality,
    saved_eps,
    set_eps,
)
from pipeline.encoders.weights import read_tensors as read_weights
from pipeline.errors import UserError, parsing
from pipeline.manifest import NAME
from pipeline.methods import MODALITIES
from pipeline.run import Round, Run
from pipeline.starts import read_start
from pipeline.storage import Location
from pipeline.telemetry.console import say

_ABOVE = 5  # folders between the weights of an update and its run
# Stand in for an encoder that the source lacks: a pass loads both.
_LACKING = {"video": "r2plus1d_small", "audio": "resnet_small"}
_TRAINING_ALONE = {"train_short_side", "flip"}  # settings that an export does not hold


@dataclass(frozen=True)
class EncoderSource:
    """Encoders, and how a clip must be prepared for them."""

    name: str  # for messages
    encoders: EncoderConfig  # of the modalities that it has; the others' do not matter
    clips: ClipsConfig | None  # that the encoders were trained with; None: nothing says it
    # Modality → safetensors, and how names begin in it.
    files: Mapping[str, tuple[Location, str]]
    eps: Mapping[str, float] = field(default_factory=dict)  # of the BatchNorms, where it is told
    is_whole: bool = False  # whether the file is a run's, with both encoders
    # Modalities whose encoders are those that the settings of `config` begin with.
    starts: tuple[str, ...] = ()
    # Of a run: the rest of its settings that decide what comes out.
    config: Config = field(default_factory=Config, repr=False)
    # Modalities that were clustered together → folder of the finished clustering of these encoders.
    clusterings: Mapping[tuple[str, ...], Location] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(m for m in MODALITIES if m in self.files or m in self.starts)

    def weights_in(self, scratch: Location) -> Location:
        """Safetensors by a run's names (``video.…``, ``audio.…``), made in `scratch` if need be.

        An encoder that the source lacks is random there, and not to be used.

        Raises:
            UserError: tensors do not fit the architecture.
        """
        places = {place for place, _ in self.files.values()}
        if len(places) == 1 and self.is_whole:
            return places.pop()
        networks = encoders.build(self.encoders, seed=0)
        for modality in self.starts:
            networks[modality] = read_start(self.config, modality)
        for modality, (place, prefix) in self.files.items():
            state = read_weights(place)
            state = of_modality(state, modality, place) if prefix else state
            network = networks[modality]
            if differing := differing_tensors(state, network):
                raise UserError(
                    f"{place} does not fit {self.encoders.of(modality).name}: "
                    f"{in_one_line(differing)}"
                )
            network.load_state_dict(dict(state), strict=False)
            eps = self.eps.get(modality) or (saved_eps(place).get(modality) if prefix else None)
            if eps is not None:
                set_eps(network, eps)
        made = scratch / "encoders.safetensors"
        encoders.save_weights(networks, made)
        return made


def settings_source(config: Config) -> EncoderSource:
    """The encoders that ``encoders.*.start`` names, of one modality or both.

    Raises:
        UserError: it names none, or a network does not take clips of these settings.
    """
    started = config.encoders.started
    if not started:
        raise UserError(
            "say whose encoders are to embed: --encoder SOURCE, or encoders.video.start=… and "
            "encoders.audio.start=…"
        )
    lacked = {m: name for m, name in _LACKING.items() if m not in started}
    chosen = EncoderConfig.model_validate(lacked | {m: config.encoders.of(m) for m in started})
    config = config.model_copy(update={"encoders": chosen})
    check_encoders(config)
    name = " and ".join(config.encoders.of(m).start for m in started)
    return EncoderSource(name, chosen, None, {}, starts=tuple(started), config=config)


def resolve(source: str, number: int | None = None) -> EncoderSource:
    """What stands behind ``--encoder``.

    Args:
        source: a run directory, perhaps with ``#`` and a round; a folder of `jobs/export.py`, with
            both encoders or one; or a ``.safetensors`` of a run. A path or URI.
        number: the round of a run; None: the last finished one.

    Raises:
        UserError: there is no encoder, no such round, or what is there is not whole.
    """
    source, _, told = source.partition("#")
    if told and (number is not None or not told.isdecimal()):
        raise UserError(f"{source}#{told}: after # stands the number of a round, said once")
    number = int(told) if told else number
    place = Location.of(source)
    if (place / "config.yaml").exists():
        return _of_run(Run.existing(place.full_uri), number)
    if number is not None:
        raise UserError(f"{place} is not a run directory, so it has no round {number}")
    if place.info().is_file:
        return _of_file(place)
    folders = {m: place / m for m in MODALITIES if (place / m / "config.json").exists()}
    if not folders and (place / "config.json").exists():
        folders = {str(_facts(place)["modality"]): place}
    if folders:
        return _of_exports(place, folders)
    raise UserError(
        f"there is no encoder in {place}: give a run directory, a folder of jobs/export.py, or a "
        ".safetensors of a run; other weights and names by encoders.video.start=… or "
        "encoders.audio.start=…"
    )


def _of_run(run: Run, number: int | None) -> EncoderSource:
    this, config = run.finished_round(number), run.config
    now, method = run.encoders_after(this), methods.get(config.method)
    name = f"round {this.number} of {run.location}"
    modalities = _trained(this) or MODALITIES
    clusterings = {
        together: place
        for clustering, together in method.clusterings.items()
        if {*together} <= {*modalities} and not any(map(now.is_raw, together))
        if ((place := this.clusters(clustering)) / NAME).exists()
    }
    for modality in {*MODALITIES} - {*modalities}:
        say(f"the {modality} encoder of {name} was never trained: it is left out")
    if not clusterings:
        say(f"{name} has no clusters of its encoders: the table will have none")
    return EncoderSource(
        name=name,
        encoders=config.encoders,
        clips=config.clips,
        files={m: (now.weights, f"{m}.") for m in modalities},
        is_whole=True,
        config=config,
        clusterings=clusterings,
    )


def _trained(this: Round) -> tuple[str, ...]:
    """The modalities whose encoders the round has trained; none of round 0."""
    learned = this.metrics.read_json().get("updates", [])
    losses = {name for update in learned for name in update["epochs"][-1]}
    return tuple(m for m in MODALITIES if any(n.startswith(f"loss_{m}_") for n in losses))


def _of_file(place: Location) -> EncoderSource:
    if not place.name.endswith(".safetensors"):
        raise UserError(
            f"{place} is not a .safetensors of a run: give that, a run directory, or a folder of "
            "jobs/export.py; other weights by encoders.video.start=… or encoders.audio.start=…"
        )
    state = read_weights(place)
    of_run = [m for m in MODALITIES if any(name.startswith(f"{m}.") for name in state)]
    if not all(name.partition(".")[0] in MODALITIES for name in state):
        raise UserError(
            f"{place} is not of a run, whose tensors begin with video. or audio.; of an export "
            "give the folder"
        )
    files, whole = {m: (place, f"{m}.") for m in of_run}, len(of_run) == len(MODALITIES)
    if run := _run_above(place):
        return EncoderSource(str(place), run.encoders, run.clips, files, is_whole=whole, config=run)
    named = {m: nearest(of_modality(state, m, place), m)[1] for m in of_run}
    return EncoderSource(
        str(place), EncoderConfig.model_validate(_LACKING | named), None, files, is_whole=whole
    )


def _run_above(place: Location) -> Config | None:
    """The settings of the run in whose directory a file lies."""
    parts = place.uri.split("/")
    for depth in range(1, min(_ABOVE, len(parts) - 3) + 1):
        folder = Location("/".join(parts[:-depth]), place.query)
        if folder.name and (folder / "config.yaml").exists() and (folder / "rounds").exists():
            return settings.saved(folder / "config.yaml")
    return None


def _of_exports(place: Location, folders: Mapping[str, Location]) -> EncoderSource:
    names: dict[str, str] = {}
    eps: dict[str, float] = {}
    parts: dict[str, dict[str, Any]] = {m: {} for m in MODALITIES}
    for modality, folder in folders.items():
        facts, names[modality] = _facts(folder), str(_facts(folder)["architecture"])
        if modality not in MODALITIES or facts["modality"] != modality:
            raise UserError(f"{folder} holds no {modality} encoder of jobs/export.py")
        of_others = names[modality].partition(":")[0] in FAMILIES
        if not of_others and names[modality] not in encoders.ARCHITECTURES[modality]:
            # Never import code that a file names: folders are passed on.
            raise UserError(
                f"{folder / 'config.json'} names no encoder of this package: {names[modality]}"
            )
        if facts["batchnorm_eps"] is not None:
            eps[modality] = float(facts["batchnorm_eps"])
        for m, told in _preparation(folder, modality).items():
            parts[m] = told if m == modality else told | parts[m]
    files = {m: (folder / "model.safetensors", "") for m, folder in folders.items()}
    chosen = EncoderConfig.model_validate(_LACKING | names)
    clips = ClipsConfig(video=VideoConfig(**parts["video"]), audio=AudioConfig(**parts["audio"]))
    return EncoderSource(str(place), chosen, clips, files, eps)


def _facts(folder: Location) -> dict[str, Any]:
    """The content of config.json."""
    place = folder / "config.json"
    facts = place.read_json()
    with parsing(place, "the facts of an exported encoder"):
        return {name: facts[name] for name in ("modality", "architecture", "batchnorm_eps")}


def _preparation(folder: Location, modality: str) -> dict[str, dict[str, Any]]:
    """How a clip is prepared, as an export's preprocessor_config.json says, by modality.

    Of the other modality it has what says how long a clip is, and where its sound lies.
    """
    place = folder / "preprocessor_config.json"
    told = place.read_json()
    with parsing(place, "how an exported encoder's clips are prepared"):
        clip = told.get("clip", {})  # exports of earlier versions lack it
        found = {
            "video": {n: clip[n] for n in VideoConfig.model_fields if n in clip},
            "audio": {n: clip[n] for n in AudioConfig.model_fields if n in clip},
        }
        if modality == "audio":
            # One that hears the waveform is told nothing of spectrograms.
            found["audio"] = {n: told[n] for n in AudioConfig.model_fields if n in told}
        else:
            names = VideoConfig.model_fields.keys() - _TRAINING_ALONE
            side = told["short_side"]
            found["video"] = {n: told[n] for n in names} | {"train_short_side": (side, side)}
    return found
