"""What the code says of each setting: its default, what it takes, and the comment at its field.

docs/reference.py makes a page of it, `SettingsParser` the help of the jobs.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline import config, encoder_settings
from pipeline.section import WHERE

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class SettingsParser(argparse.ArgumentParser):
    """Of a job that takes settings: its help ends with all of them."""

    def __init__(self, description: str | None) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter)

    def format_help(self) -> str:
        return f"{super().format_help()}\n{listing()}"


def listing() -> str:
    """All settings as text: ``key=default``, what it takes, and what it does."""
    said = setting_comments()
    lines = ["settings, as key=value or in YAML files (* may change in a run that was begun):"]
    for prefix, section, fields, free in sections(config.Config):
        lines.append("")
        for name, info in fields:
            key = f"{prefix}.{name}" if prefix else name
            mark = "*" if free or WHERE in info.metadata else " "
            lines.append(f" {mark}{key}={as_written(info.default) if info.default != '' else ''}")
            meaning = info.description or comment_at(said, section, name)
            words = f"{takes(info).replace('`', '')}: {meaning}"
            lines += textwrap.wrap(words, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"


Fields = list[tuple[str, FieldInfo]]


def sections(
    section: type[BaseModel], prefix: str = "", free: bool = False
) -> Iterator[tuple[str, type[BaseModel], Fields, bool]]:
    """Prefix, class and plain fields of a section, and whether all of it may change; then the same
    of the sections in it."""
    plain, nested = [], []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            marked = free or WHERE in info.metadata
            nested.append((kind, f"{prefix}.{name}".lstrip("."), marked))
        else:
            plain.append((name, info))
    if plain:
        yield prefix, section, plain, free
    for inner in nested:
        yield from sections(*inner)


def takes(info: FieldInfo) -> str:
    """What values a field takes, in words."""
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in info.metadata
        for name, sign in _BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]
    return ", ".join([_kind(info.annotation), *bounds])


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{as_written(a)}`" for a in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_kind(a) for a in arguments)
    if origin is tuple:
        kinds = list(dict.fromkeys(_kind(a) for a in arguments if a is not Ellipsis))
        length = "" if Ellipsis in arguments else f"{len(arguments)} "
        return f"list of {length}{' and '.join(kinds)}s".replace("texts", "names")
    if hasattr(annotation, "__metadata__"):  # Annotated, inside a tuple
        return _kind(arguments[0])
    return _WORDS[annotation]


def as_written(value: Any) -> str:
    return json.dumps(value) if value == "" or not isinstance(value, str) else value


def setting_comments() -> dict[tuple[str, str], str]:
    return field_comments(config) | field_comments(encoder_settings)


def field_comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """(class, field) → the comment above it and the one beside it."""
    return {
        (cls.name, node.target.id): comment
        for cls in ast.walk(tree(module))
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if (comment := comment_of(module, node))
    }


def comment_at(said: Mapping[tuple[str, str], str], section: type[BaseModel], name: str) -> str:
    """The comment at a field, be it of a class that the section inherits from."""
    found = (said.get((each.__name__, name), "") for each in section.__mro__)
    return next(filter(None, found), "")


def comment_of(module: ModuleType, node: ast.expr | ast.stmt) -> str:
    comments, standing = _comments(module)
    words: list[str] = []
    line = node.lineno - 1
    while line in standing:
        words.insert(0, comments[line])
        line -= 1
    assert node.end_lineno is not None
    words += [comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments]
    return " ".join(words)


def _comments(module: ModuleType) -> tuple[dict[int, str], set[int]]:
    """Line → its comment, and the lines that hold nothing else."""
    comments, standing = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(module)).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").rstrip()
            if not token.line[: token.start[1]].strip():
                standing.add(token.start[0])
    return comments, standing


def tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))
