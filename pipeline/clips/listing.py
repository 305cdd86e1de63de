"""List the media to index: files of a folder, bucket or glob, or the rows of a cuts table."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.fs

from pipeline.clips.cut_files import is_cuts_table
from pipeline.clips.cut_tables import SCHEMA, Listing, MediaStream, Rejected, read_cuts
from pipeline.clips.folders import FolderListing
from pipeline.clips.sorted_names import SortedNames
from pipeline.errors import UserError
from pipeline.storage import Location

_WILDCARDS = "*?["


def list_media(source: str, label_column: str = "label") -> Listing:
    """All of `stream_media` in memory, each file and cut once."""
    return stream_media(source, label_column).listing()


def stream_media(
    source: str, label_column: str = "label", scratch: Location | None = None
) -> MediaStream:
    """Everything at `source` in a fixed order, a table of rows at a time.

    Args:
        source: a folder or bucket prefix (all files below it, hidden ones apart), one file, a glob
            (``**`` crosses folders), or a cuts table: a file ``.csv``, ``.tsv`` (also ``.gz``) or
            ``.parquet`` with the columns ``uri, start_s, end_s`` and perhaps ``label, split``, or
            a folder that holds nothing but such files. Its relative URIs start at its folder. What
            is there under its own name is no glob, whatever signs the name holds.
        label_column: of a cuts table, the column to take as ``label``.
        scratch: folder for names that do not fit into memory; it stays as long as tables are read.

    Raises:
        UserError: nothing is there; or, while its tables are read, a cuts table lacks columns or
            does not parse.
    """
    place = Location.of(source)
    is_glob = any(c in place.uri for c in _WILDCARDS)
    kind = _kind(place, may_fail=is_glob)
    if kind == pyarrow.fs.FileType.NotFound:
        if is_glob:
            return _matching(place, scratch)
        raise UserError(f"there is nothing at {place}; check the path, the bucket and its region")
    if kind == pyarrow.fs.FileType.File:
        if is_cuts_table(place.name):
            return read_cuts(place, [place], label_column)
        return MediaStream([_files([place])])
    found = FolderListing.of(place, SortedNames(scratch))
    if not found.names and not found.rejected:
        raise UserError(f"there are no files in {place}")
    parts = _parts_of_a_table(found.names)
    if parts:
        return read_cuts(place, [place / name for name in parts], label_column)
    return _stream(found)


def _parts_of_a_table(names: SortedNames) -> list[str]:
    """The names of a folder that holds nothing but cuts tables; else none."""
    parts = []
    for name in names:
        if "/_" not in f"/{name}":  # not _SUCCESS
            if not is_cuts_table(name):
                return []
            parts.append(name)
    return parts


def _kind(place: Location, may_fail: bool) -> pyarrow.fs.FileType:
    try:
        if not place.is_local:
            return place.info().type
        # pyarrow cannot take a name that is not UTF-8.
        is_folder = stat.S_ISDIR(os.stat(place.uri).st_mode)
        return pyarrow.fs.FileType.Directory if is_folder else pyarrow.fs.FileType.File
    except (FileNotFoundError, NotADirectoryError):
        return pyarrow.fs.FileType.NotFound
    except (OSError, pa.ArrowException) as error:
        if may_fail:
            return pyarrow.fs.FileType.NotFound
        hint = "Check the address and the credentials."
        raise UserError(f"cannot look at {place}: {error}. {hint}") from error


def _matching(glob: Location, scratch: Location | None) -> MediaStream:
    scheme, mark, rest = glob.uri.rpartition("://")
    names = rest.split("/")
    fixed = 1
    while fixed < len(names) - 1 and _is_fixed(glob, scheme + mark + "/".join(names[: fixed + 1])):
        fixed += 1
    folder = Location(scheme + mark + "/".join(names[:fixed]) or "/", glob.query)
    wanted = names[fixed:]
    matching = SortedNames(scratch, lambda name: _glob_match(name.split("/"), wanted))
    found = FolderListing.of(folder, matching)
    # A folder that could not be listed counts if what matches may lie in it.
    found.rejected = [row for row in found.rejected if _may_hold(row[0].split("/"), wanted)]
    if not found.names and not found.rejected:
        raise UserError(f"no file matches {glob}")
    return _stream(found)


def _is_fixed(glob: Location, uri: str) -> bool:
    """Whether a leading part of a glob is meant as it is: it has no wildcards, or it exists."""
    name = uri.rpartition("/")[2]
    if not any(c in name for c in _WILDCARDS):
        return True
    return _kind(Location(uri, glob.query), may_fail=True) == pyarrow.fs.FileType.Directory


def _glob_match(parts: list[str], wanted: list[str]) -> bool:
    """Like a shell's glob: ``*`` stays inside a folder, ``**`` crosses folders."""

    def match(i: int, j: int) -> bool:
        if j == len(wanted):
            return i == len(parts)
        if wanted[j] == "**":
            return any(match(n, j + 1) for n in range(i, len(parts) + 1))
        return i < len(parts) and fnmatch.fnmatchcase(parts[i], wanted[j]) and match(i + 1, j + 1)

    return match(0, 0)


def _may_hold(parts: list[str], wanted: list[str]) -> bool:
    if "**" in wanted:
        wanted = wanted[: wanted.index("**")]
    elif len(parts) > len(wanted):
        return False
    return all(map(fnmatch.fnmatchcase, parts, wanted))


def _stream(found: FolderListing) -> MediaStream:
    rejected: list[Rejected] = [
        ((found.folder / name).full_uri, None, why) for name, why in found.rejected
    ]
    tables = (_files(found.folder / name for name in batch) for batch in found.names.batches())
    return MediaStream(tables, rejected)


def _files(places: Iterable[Location]) -> pa.Table:
    uris = pa.table({"uri": pa.array([place.full_uri for place in places], pa.string())})
    return pa.concat_tables([SCHEMA.empty_table(), uris], promote_options="default")
