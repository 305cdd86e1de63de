"""Settings from YAML files and ``dotted.key=value`` overrides. An unknown key is an error."""

from __future__ import annotations

import difflib
import os
import reprlib
from functools import reduce
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline import plain_yaml
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.storage import Location

RENAMED = {  # settings that have another name now; their values carry over
    "clustering.memory_budget_mb": "clustering.max_memory_mb",
    "embedding.actors": "embedding.min_actors",
    "embedding.precision": "precision",
    "embedding.rows_per_file": "embedding.max_rows_per_file",
    "learning.heldout": "learning.held_out",
    "learning.neighbours": "learning.max_neighbours",
    "learning.precision": "precision",
    "learning.prefetch_mb": "learning.max_prefetch_mb",
}
GONE = {  # settings that are gone, and what to do now
    "clips.video.mean": "frames are normalised by the statistics of Kinetics",
    "clips.video.std": "frames are normalised by the statistics of Kinetics",
    "clustering.eigen_power": "clustering.whiten=true stands for -0.5",
    "clustering.scratch": "set TMPDIR where Ray starts on a node",
    "clustering.sinkhorn_passes": "it is 3",
    "clustering.sinkhorn_strength": "it is 20",
    "clustering.tolerance": "lower clustering.iterations",
    "index.clips_per_part": "it is 262,144",
    "index.files_per_task": "it is 32",
    "index.timeout_s": "clips.timeout_s holds for probing as well",
    "learning.own_weight": "all heads weigh the same",
    "learning.step_factor": "the rate is divided by 10 at each of learning.step_milestones",
    "resources.decode_gpus": "a decoding task takes 0.1 GPU",
    "resources.shards_on": "shards keep to nodes of the role memory",
    "resources.train_on": "encoders and training keep to nodes of the role gpu",
    "store.clips_per_shard": "it is 128",
}
SHORT = {"encoders.video": "name", "encoders.audio": "name"}  # sections that one text may stand for
_DEEPEST = 8  # sections in each other
_MOST_LINES, _LONGEST = 20, 200  # of a message, and of what it repeats
_STANDARD = {  # what those of them that decided the outcome stood at, and what holds now
    "clips.video.mean": [0.43216, 0.394666, 0.37645],
    "clips.video.std": [0.22803, 0.22145, 0.216989],
    "clustering.eigen_power": -0.5,
    "clustering.sinkhorn_passes": 3,
    "clustering.sinkhorn_strength": 20.0,
    "clustering.tolerance": 0.0,
    "learning.own_weight": 1.0,
    "learning.step_factor": 0.1,
}


def load(arguments: list[str]) -> Config:
    """Read YAML files and ``dotted.key=value`` overrides, left to right, into one `Config`.

    Values are parsed as YAML: ``clips.video.region=[115,178,80,60]``, ``run=runs/a``.

    Raises:
        UserError: a file is missing or not a mapping, a key is unknown, a value does not fit.
    """
    tree: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not os.path.isfile(argument):
            _merge(tree, _nested(key.strip(), plain_yaml.parsed(value, _shown(argument))))
        else:
            _merge(tree, _read(argument))
    return build(tree)


def more_rounds(arguments: list[str]) -> tuple[list[str], int]:
    """The arguments without ``rounds=+N``, and N; 0 where they have none."""
    found = [a.removeprefix("rounds=+") for a in arguments if a.startswith("rounds=+")]
    others = [a for a in arguments if not a.startswith("rounds=+")]
    if not found:
        return others, 0
    if not found[-1].isdecimal() or not int(found[-1]):
        raise UserError(
            f"rounds=+{found[-1][:_LONGEST]}: after the plus stands how many, such as +2"
        )
    return others, int(found[-1])


def build(tree: dict[str, Any]) -> Config:
    """Validate a nested mapping of settings.

    Raises:
        UserError: one line per setting that is unknown or does not fit.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_explain(dict(problem)) for problem in problems[:_MOST_LINES]]
        if len(problems) > _MOST_LINES:
            lines.append(f"and {len(problems) - _MOST_LINES:,} more")
        raise UserError("\n".join(lines)) from None


def saved(file: Location) -> Config:
    """A run's ``config.yaml`` without gone settings; newer ones default to what was done before.

    Raises:
        UserError: the run depends on the value of a setting that is gone.
    """
    tree = _mapping(plain_yaml.parsed(file.read_bytes(), str(file)), str(file))
    carried: dict[str, Any] = {}
    for old in (*RENAMED, *GONE):
        *sections, name = old.split(".")
        holder = reduce(_section, sections, tree)
        value = holder.pop(name, None)
        if value is None:
            continue
        new = RENAMED.get(old, "")
        holds = carried.get(new, value) if new else _STANDARD.get(old, value)
        if value != holds:
            raise UserError(
                f"{file} was begun with {old}={_shown(value)}, and this release has {holds}: "
                "continue it with the release that began it, or begin another run"
            )
        if new:
            carried[new] = value
            _merge(tree, _nested(new, value))
    return build(tree)


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys at which two dumped configs differ, as ``key: ours → theirs``."""
    lines = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} → {b}")
    return lines


def _section(tree: dict[str, Any], key: str) -> dict[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, dict) else {}


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            text = stream.read(plain_yaml.MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"cannot read the config file {_shown(file)}: {reason}. "
            "Arguments are YAML files or overrides such as clustering.k=64."
        ) from error
    return _mapping(plain_yaml.parsed(text, file), file)


def _mapping(tree: Any, source: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError(f"{source} must hold a mapping of settings at its top level")
    return tree


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    if dotted.count(".") > _DEEPEST:
        raise UserError(f"unknown setting {_shown(dotted)}")
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def _merge(into: dict[str, Any], other: dict[str, Any], place: str = "") -> None:
    for key, value in other.items():
        dotted = f"{place}{key}"
        if dotted in SHORT and isinstance(value, dict) and isinstance(into.get(key), str):
            into[key] = {SHORT[dotted]: into[key]}
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, f"{dotted}.")
        elif dotted in SHORT and isinstance(value, str) and isinstance(into.get(key), dict):
            into[key][SHORT[dotted]] = value
        else:
            into[key] = value


def _explain(problem: dict[str, Any]) -> str:
    dotted = ".".join(str(part) for part in problem["loc"])[:_LONGEST]
    if dotted in RENAMED:
        return f"the setting {dotted!r} is now {RENAMED[dotted]!r}"
    if dotted in GONE:
        return f"there is no setting {dotted!r} any more: {GONE[dotted]}"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, keys(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown setting {dotted!r}{hint}"
    if not dotted:
        return str(problem["msg"])
    return f"setting {dotted!r}: {problem['msg']} (got {_shown(problem['input'])})"


def _shown(value: object) -> str:
    """A value as it was given, as far as it is short."""
    return reprlib.repr(value) if not isinstance(value, str) else repr(value[:_LONGEST])


def keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """The dotted names of all settings."""
    found = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found
