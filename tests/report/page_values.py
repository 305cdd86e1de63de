"""What a report's data files hold, as the page reads them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from pipeline.storage import Location


def value_of(report: Location, name: str) -> Any:
    """The value of ``data/NAME.js``, its arrays decoded."""
    text = (report / "data" / f"{name}.js").read_bytes().decode()
    start = f"XDC.put({json.dumps(name)},"
    assert text.startswith(start)
    assert text.endswith(");\n")
    return _decoded(json.loads(text.removeprefix(start).removesuffix(");\n")))


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"type", "b64"}:
        return np.frombuffer(base64.b64decode(value["b64"]), value["type"])
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value
