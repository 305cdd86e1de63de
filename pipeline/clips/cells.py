"""Cells of tables that people write: texts, and times in seconds or as on a clock."""

from __future__ import annotations

import datetime
import math
import os
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):([0-5]?\d(?:[.,]\d*)?)")  # hours, minutes, seconds
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)

_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
_TEXTS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary),
)


def texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of any type as strings; null where the cell is empty.

    Whole numbers lose their ``.0``. A list is its only item, or nothing if it holds several. Bytes
    that are not UTF-8 become ``\\xe9``.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if not (pa.types.is_floating(kind) or pa.types.is_nested(kind)):
        try:
            found = column.cast(pa.string())
            return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
    return pa.chunked_array([pa.array(map(_text, column.to_pylist()), pa.string())])


def names(column: pa.ChunkedArray) -> list[str | None]:
    """A column of file names, as the system gives them where they are not UTF-8."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [None if value is None else os.fsdecode(value) for value in column.to_pylist()]
    return texts(column).to_pylist()


def seconds(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Times as float64, null where the cell is empty; and bool: what is there is no time.

    A time is a number of seconds, a duration, or ``MM:SS`` or ``HH:MM:SS`` with decimals.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    try:
        if any(is_kind(kind) for is_kind in _NUMBERS):
            found = column.cast(pa.float64())
        elif any(is_kind(kind) for is_kind in _TEXTS):
            found = pc.utf8_trim_whitespace(column.cast(pa.string()))
            found = pc.if_else(pc.equal(found, ""), None, found).cast(pa.float64())
        else:
            raise pa.ArrowInvalid
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        times = [_seconds(value) for value in column.to_pylist()]
        wrong = [time is not None and math.isnan(time) for time in times]
        return pa.chunked_array([pa.array(times, pa.float64())]), pa.chunked_array([wrong])
    return found, pa.chunked_array([pa.repeat(False, len(column))])


def _text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        items = [item for item in value if item is not None]
        return _text(items[0]) if len(items) == 1 else None
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "" or value != value:
        return None
    return str(value)


def _seconds(value: Any) -> float | None:
    """NaN: no time."""
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.time):
        value = value.isoformat()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, bool):
        return math.nan
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups()
        if hours is not None and int(minutes) > 59:
            return math.nan
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(rest.replace(",", "."))
    return float(text) if _NUMBER.fullmatch(text) else math.nan
