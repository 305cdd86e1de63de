"""List the media to index: files of a folder, bucket or glob, or the rows of a cuts table."""

from __future__ import annotations

import fnmatch
import posixpath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs

from pipeline.errors import UserError
from pipeline.storage import Location

# One row a file (start_s and end_s null: cut it up) or one row a cut.
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
_WILDCARDS = "*?["


def list_media(source: str, label_column: str = "label") -> pa.Table:
    """Everything at `source`, as `SCHEMA`, in a fixed order.

    Args:
        source: a folder or bucket prefix (all files below it, hidden ones apart), one file, a glob
            (``**`` crosses folders), or a cuts table, CSV or Parquet with the columns ``uri,
            start_s, end_s`` and perhaps ``label, split``; its relative URIs start at its folder.
        label_column: of a cuts table, the column to take as ``label``.

    Raises:
        UserError: nothing is there, or a cuts table lacks columns or does not parse.
    """
    # In a URI a question mark begins the connection's options.
    pattern, mark, query = source.partition("?") if "://" in source else (source, "", "")
    if any(c in pattern for c in _WILDCARDS):
        return _matching(pattern, mark + query)
    place = Location.of(source)
    try:
        info = place.info()
    except OSError as error:
        hint = "Check the address and the credentials."
        raise UserError(f"cannot look at {place}: {error}. {hint}") from error
    if info.type == pyarrow.fs.FileType.NotFound:
        raise UserError(f"there is nothing at {place}; check the path, the bucket and its region")
    if info.is_file:
        is_table = place.name.endswith((".csv", ".parquet"))
        return _cuts(place, label_column) if is_table else _files([place])
    found = _below(place)
    if not found:
        raise UserError(f"there are no files in {place}")
    return _files(found)


def _below(folder: Location) -> list[Location]:
    """All files below, except in hidden folders."""
    try:
        infos = folder.children(recursive=True)
    except OSError as error:
        hint = "Check that the bucket exists and that the credentials may list it."
        raise UserError(f"cannot list {folder}: {error}. {hint}") from error
    root = len(folder.path.rstrip("/")) + 1
    names = [info.path[root:] for info in infos if info.is_file]
    return [folder / name for name in names if "/." not in f"/{name}"]


def _matching(pattern: str, query: str) -> pa.Table:
    fixed = pattern[: min(pattern.index(c) for c in _WILDCARDS if c in pattern)].rpartition("/")[0]
    folder = Location.of(f"{fixed or '.'}{query}")
    wanted = posixpath.join(str(folder), pattern[len(fixed) :].lstrip("/"))
    found = [place for place in _below(folder) if _glob_match(str(place), wanted)]
    if not found:
        raise UserError(f"no file matches {pattern}")
    return _files(found)


def _glob_match(path: str, pattern: str) -> bool:
    """Like a shell's glob: ``*`` stays inside a folder, ``**`` crosses folders."""
    parts, wanted = path.split("/"), pattern.split("/")

    def match(i: int, j: int) -> bool:
        if j == len(wanted):
            return i == len(parts)
        if wanted[j] == "**":
            return any(match(n, j + 1) for n in range(i, len(parts) + 1))
        return i < len(parts) and fnmatch.fnmatchcase(parts[i], wanted[j]) and match(i + 1, j + 1)

    return match(0, 0)


def _files(places: list[Location]) -> pa.Table:
    return _completed(pa.table({"uri": pa.array([p.full_uri for p in places], pa.string())}))


def _completed(table: pa.Table) -> pa.Table:
    """The columns of `SCHEMA`, in its order and types; null where there is no such column."""
    fields = [field for field in SCHEMA if field.name in table.column_names]
    ours = table.select([field.name for field in fields]).cast(pa.schema(fields))
    return pa.concat_tables([SCHEMA.empty_table(), ours], promote_options="default")


def _cuts(place: Location, label_column: str) -> pa.Table:
    try:
        if place.name.endswith(".csv"):
            types = {label_column if f.name == "label" else f.name: f.type for f in SCHEMA}
            text = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            with place.fs.open_input_stream(place.path) as stream:
                table = pa.csv.read_csv(stream, convert_options=text)
        else:
            table = place.read_table()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"cannot read the cuts table {place}: {error}") from error
    needed = ["uri", "start_s", "end_s", *([label_column] if label_column != "label" else [])]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise UserError(
            f"the cuts table {place} lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(table.column_names)}"
        )
    if len(table) == 0:
        raise UserError(f"the cuts table {place} has no rows")
    if label_column != "label":
        labels, others = table[label_column], [n for n in table.column_names if n != "label"]
        table = table.select(others).append_column("label", labels)
    table = _completed(table)
    folder = place.full_uri.partition("?")[0].rpartition("/")[0]
    query = f"?{place.query}" if place.query else ""
    uris = [
        uri if "://" in uri or uri.startswith("/") else f"{folder}/{uri}{query}"
        for uri in pc.fill_null(table["uri"], "").to_pylist()
    ]
    return table.set_column(0, SCHEMA.field("uri"), [pa.array(uris, pa.string())])
