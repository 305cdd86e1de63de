"""All files below a folder, each once; what cannot be listed is a reject, and the rest goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs

from pipeline.clips.rejects import Reason, Reject, reject_for
from pipeline.clips.sorted_names import SortedNames
from pipeline.errors import UserError
from pipeline.patience import StorageAway
from pipeline.storage import Location

_SWEEPS = 8  # prefixes of a bucket that are listed at once
# More prefixes than that are listed in one sweep: a request each would take longer.
_MOST_PREFIXES = 1000
_BATCH = 8192  # names that are handed on at a time


@dataclass
class FolderListing:
    """What lies below a folder, hidden files and folders apart."""

    folder: Location
    names: SortedNames = field(default_factory=SortedNames)  # of files, relative to the folder
    rejected: list[tuple[str, Reject]] = field(default_factory=list)  # of folders and links, why

    @classmethod
    def of(cls, folder: Location, names: SortedNames | None = None) -> FolderListing:
        """Empty where there is no such folder. Raises UserError if it cannot be listed.

        Args:
            names: where names are added, by default in memory.
        """
        listing = cls(folder, SortedNames() if names is None else names)
        try:
            if folder.is_local:
                _LocalWalk(listing).everything()
            else:
                _list_remote(listing)
        except FileNotFoundError:
            return listing
        except StorageAway:
            raise
        except (OSError, pa.ArrowException) as error:
            hint = "Check that the folder or bucket exists and that the credentials may list it."
            raise UserError(f"cannot list {folder}: {error}. {hint}") from error
        listing.rejected.sort(key=lambda row: row[0])
        return listing

    def reject(self, name: str, error: Exception) -> None:
        self.rejected.append((name, reject_for(error, Reason.UNREADABLE)))


class _LocalWalk:
    """Follows symbolic links, but lists no file twice.

    A link to a folder is followed unless that folder is listed anyway, or contains the one asked
    for: such a link is a loop. A link to a file counts unless the file is listed anyway. Of files
    nothing is remembered: a file is listed if its folder is.
    """

    def __init__(self, listing: FolderListing) -> None:
        self.listing = listing
        self.top = listing.folder.uri
        self.folders: dict[str, bool] = {}  # real paths of those visited, and whether listed
        self.links: list[str] = []  # names of those not looked at yet

    def everything(self) -> None:
        real_top = os.path.realpath(self.top)
        self.walk("", real_top)
        to_files: list[tuple[str, str]] = []
        while self.links:
            links, self.links = sorted(self.links), []
            for name in links:
                try:
                    real = os.path.realpath(os.path.join(self.top, name), strict=True)
                except OSError as error:
                    self.listing.reject(name, error)
                    continue
                if os.path.isfile(real):
                    to_files.append((name, real))
                elif os.path.isdir(real) and not f"{real_top}/".startswith(f"{real.rstrip('/')}/"):
                    self.walk(name, real)
        linked: set[str] = set()
        for name, real in to_files:
            folder, _, file = real.rpartition("/")
            is_listed = self.folders.get(folder or "/", False) and not file.startswith(".")
            if not is_listed and real not in linked:
                self.listing.names.add([name])
                linked.add(real)

    def walk(self, link: str, real: str) -> None:
        """The folder at `real`: the top (``""``), or what the link of this name leads to."""
        waiting = [(link, real)]
        while waiting:
            name, real = waiting.pop()
            if real in self.folders:
                continue
            try:
                with os.scandir(os.path.join(self.top, name)) as entries:
                    self.folders[real] = True
                    self.take(name, real, entries, waiting)
            except OSError as error:
                self.folders[real] = False
                if not name:
                    raise
                self.listing.reject(name, error)

    def take(
        self,
        folder: str,
        real: str,
        entries: Iterable[os.DirEntry[str]],
        waiting: list[tuple[str, str]],
    ) -> None:
        """Add the files of one folder to the names; folders and links wait."""
        files: list[str] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            inner = os.path.join(folder, entry.name)
            if entry.is_symlink():
                self.links.append(inner)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append((inner, os.path.join(real, entry.name)))
            elif entry.is_file(follow_symlinks=False):
                files.append(inner)
                if len(files) == _BATCH:
                    self.listing.names.add(files)
                    files = []
        self.listing.names.add(files)


def _list_remote(listing: FolderListing) -> None:
    """By prefixes side by side, where there are some; level by level what may not be swept."""
    start = len(listing.folder.path.rstrip("/")) + 1

    def add(paths: Iterable[str]) -> None:
        names = (path[start:] for path in paths)
        listing.names.add(name for name in names if "/." not in f"/{name}")

    def level(folder: Location) -> tuple[list[Location], bool]:
        """Adds the folder's own files. The folders in it, and whether those are all."""
        infos = folder.children()
        add(info.path for info in infos if info.is_file)
        folders = [info for info in infos if not info.is_file]
        # An empty part of a key, as in ``a//b``, is shown as the folder itself.
        plain = [info for info in folders if info.path == f"{folder.path}/{info.base_name}"]
        shown = [folder / info.base_name for info in plain if not info.base_name.startswith(".")]
        return shown, len(plain) == len(folders)

    def sweep(folder: Location) -> None:
        """What lies below a prefix; what may not be listed is a reject."""
        begun = False
        try:
            try:
                for page in folder.pages():
                    add(page)
                    begun = True
            except StorageAway:
                raise
            except (OSError, pa.ArrowException):
                if begun:
                    raise
                for inner in level(folder)[0]:
                    sweep(inner)
        except StorageAway:
            raise
        except (OSError, pa.ArrowException) as error:
            listing.reject(folder.path[start:], error)

    folders, all_shown = level(listing.folder)
    if not all_shown or len(folders) > _MOST_PREFIXES:
        begun = False
        try:
            for page in listing.folder.pages():
                # The folder's own files are there already.
                add(path for path in page if "/" in path[start:])
                begun = True
            return
        except StorageAway:
            raise
        except (OSError, pa.ArrowException):
            if begun:
                raise
    with ThreadPoolExecutor(_SWEEPS) as pool:
        list(pool.map(sweep, folders))
