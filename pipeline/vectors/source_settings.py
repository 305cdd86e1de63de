"""The settings of a pass: clips are prepared as the source says, the rest is the user's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

from pipeline.config import Config, Section
from pipeline.errors import UserError
from pipeline.methods import MODALITIES
from pipeline.telemetry.console import say
from pipeline.vectors.encoder_source import EncoderSource

# The user's in any case.
_OURS = {
    *("clips.timeout_s", "clips.max_rejected", "clips.decoder", "clips.split"),
    *("embedding.batch_size", "embedding.min_actors", "embedding.max_actors"),
    *("embedding.max_rows_per_file", "precision"),
}
# Sections that say where, and how files are cut up.
_SECTIONS = ("resources", "index")
# Of training alone: they have no part in embedding.
_NO_PART = (
    *("clips.video.train_short_side", "clips.video.flip", "clips.jitter_s"),
    *("encoders.warm_batches", "encoders.video.frozen", "encoders.audio.frozen"),
)


def settled(config: Config, source: EncoderSource, every_s: float = 0.0) -> Config:
    """What the pass works with.

    Args:
        config: as the user gave it; every_s: of dense windows, 0: none.

    Raises:
        UserError: a setting contradicts what the source's encoders were trained with.
    """
    trained = source.clips or config.clips
    theirs = Config(clips=trained, encoders=source.encoders)
    unused = []
    for key in given(config):
        value, held = value_of(config, key), value_of(theirs, key)
        section, part = key.split(".")[:2] if "." in key else (key, "")
        lacked = part in MODALITIES and part not in source.modalities
        if every_s and key in ("index.window_s", "index.every_s"):
            raise UserError(f"{key} does not go with --every, which says how long windows are")
        if key in _OURS or section in _SECTIONS:
            continue
        if section not in ("clips", "encoders") or key in _NO_PART or lacked:
            unused.append(key)
        elif value != held:
            raise UserError(
                f"{key}={value} contradicts {source.name}, whose encoders were trained with "
                f"{held}: leave it out"
            )
    if unused:
        say(f"warning: not used here: {', '.join(unused)}")
    if source.clips is None:
        say(
            f"warning: {source.name} does not say how its clips were prepared: the settings given "
            "here count, and must be those of its training"
        )
    own = {name: getattr(config.clips, name) for name in ("timeout_s", "max_rejected", "split")}
    chosen = {*given(config)}
    if "clips.decoder" in chosen:
        own["decoder"] = config.clips.decoder
    clips = trained.model_copy(update=own)
    embedding = config.embedding
    if "embedding.batch_size" not in chosen:
        size = source.config.embedding.batch_size
        embedding = embedding.model_copy(update={"batch_size": size})
    index = config.index
    if every_s:
        index = index.model_copy(update={"every_s": every_s, "window_s": clips.span_s})
    precision = config.precision if "precision" in chosen else source.config.precision
    return Config(
        precision=precision,
        index=index,
        clips=clips,
        encoders=source.encoders,
        embedding=embedding,
        resources=config.resources,
    )


def given(section: Section, prefix: str = "") -> Iterator[str]:
    """Dotted names of the settings that were given, whatever their value."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name not in section.model_fields_set:
            continue
        if isinstance(value, Section):
            yield from given(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def value_of(section: Section, key: str) -> Any:
    return reduce(getattr, key.split("."), section)
