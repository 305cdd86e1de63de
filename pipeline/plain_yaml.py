"""YAML of people and of runs, read as plain data: no aliases, nothing deep, nothing large."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.errors import UserError

MOST_BYTES = 100_000
_DEEPEST = 20


class _PlainLoader(yaml.SafeLoader):
    """Aliases make data that is far larger than its text; no settings need them."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read here: write the value out")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def parsed(text: str | bytes, source: str) -> Any:
    """Numbers, texts, lists and mappings by text.

    Raises:
        UserError: it is no YAML, is not UTF-8, or is larger or deeper than settings are.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"{source} has {len(text):,} bytes; settings have at most {MOST_BYTES:,}")
    try:
        text = text.decode() if isinstance(text, bytes) else text
        return yaml.load(text, _PlainLoader)  # a safe loader
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as error:
        # A date such as 2024-13-01 and a number of 5,000 digits are ValueErrors.
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{source} is not valid YAML: {said}") from error
