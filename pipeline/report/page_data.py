"""Values as scripts that the page loads: ``XDC.put("report", {…});``.

A page that is opened by double click may neither fetch files nor import modules. It may add a
<script>, so each piece of data is one.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np

from pipeline.storage import Location

_NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)*")
# In JSON they are letters like others; in a script, or in a <script> of a page, they are not.
_ESCAPED = {"<": "\\u003c", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def put(folder: Location, name: str, value: Any) -> None:
    """Write ``folder/NAME.js``, unless the same is there.

    Args:
        value: plain values and arrays. Arrays of integers become int32, or uint8 where they are
            uint8; others float32. Numbers that are not finite become null, in arrays NaN.
    """
    assert _NAME.fullmatch(name), name
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPED.items():
        text = text.replace(character, escape)
    # A name of a file may hold half a character.
    data = f"XDC.put({json.dumps(name)},{text});\n".encode(errors="backslashreplace")
    place = folder / f"{name}.js"
    if not place.exists() or place.read_bytes() != data:
        place.write_bytes(data)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        # Six digits are enough to show; times keep their tenth of a second.
        digits = 6 if abs(number) < 1e6 else 11
        return float(f"{number:.{digits}g}") if np.isfinite(number) else None
    return value.item() if isinstance(value, np.generic) else value


def _array(values: np.ndarray) -> dict[str, str]:
    kind = "float32"
    if values.dtype.kind in "iub":
        kind = "uint8" if values.dtype == np.uint8 else "int32"
    data = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()
    return {"type": kind, "b64": base64.b64encode(data).decode()}
