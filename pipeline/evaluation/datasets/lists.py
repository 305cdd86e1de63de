"""The text files in which published datasets list their examples, read line by line."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.storage import Location


class Spot(NamedTuple):
    """Where something stands."""

    place: Location
    number: int  # counted from 1
    unit: str = "line"

    def mistake(self, what: str) -> UserError:
        return UserError(f"{self.place}, {self.unit} {self.number}: {what}")

    def seconds(self, text: str | None) -> float:
        """A time; raises UserError if it is not a number."""
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.mistake(f"{text or ''!r} is no number of seconds")
        return value


def read_lines(place: Location) -> list[tuple[Spot, str]]:
    """Lines of a text file, without blank ones.

    Raises:
        UserError: the file cannot be read.
    """
    return [(Spot(place, n), line) for n, line in enumerate(_text(place), start=1) if line]


def read_fields(place: Location, comment: str = "") -> list[tuple[Spot, list[str]]]:
    """Fields of a CSV file without a header; lines that begin with `comment` are left out.

    Raises:
        UserError: the file cannot be read, or is no CSV.
    """
    lines = ["" if comment and line.startswith(comment) else line for line in _text(place)]
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        return [(Spot(place, reader.line_num), fields) for fields in reader if fields]
    except csv.Error as error:
        raise Spot(place, reader.line_num).mistake(str(error)) from None


def read_rows(place: Location, columns: Collection[str]) -> list[tuple[Spot, dict[str, str]]]:
    """Rows of a CSV file by the names in its header; fields that a row lacks are empty.

    Args:
        columns: those that there must be, with a field in every row.

    Raises:
        UserError: the file cannot be read or lacks a column; a row has too many fields, or too few.
    """
    (_, header), *rest = read_fields(place) or [(Spot(place, 1), list[str]())]
    lacking = [name for name in columns if name not in header]
    if lacking:
        there = ", ".join(header) or "none"
        raise UserError(f"{place} lacks the column(s) {', '.join(lacking)}; it has {there}")
    rows = []
    for spot, fields in rest:
        row = dict(zip(header, fields))
        short = [name for name in columns if name not in row]
        if len(fields) > len(header) or short:
            raise spot.mistake(
                f"{len(fields)} fields, and the header has {len(header)}"
                + (f"; there is none for {', '.join(short)}" if short else "")
            )
        rows.append((spot, {name: row.get(name, "") for name in header}))
    return rows


def _text(place: Location) -> list[str]:
    try:
        data = place.read_bytes()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {place}: {error}") from error
    return [line.strip() for line in data.decode("utf-8-sig", errors="replace").splitlines()]
