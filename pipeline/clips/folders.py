"""All files below a folder, each once; what cannot be listed is a reject, and the rest goes on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs

from pipeline.clips.rejects import Reason, Reject, reject_for
from pipeline.errors import UserError
from pipeline.patience import StorageAway
from pipeline.storage import Location


@dataclass
class FolderListing:
    """What lies below a folder, hidden files and folders apart."""

    folder: Location
    names: list[str] = field(default_factory=list)  # of files, relative to the folder, sorted
    rejected: list[tuple[str, Reject]] = field(default_factory=list)  # of folders and links, why

    @classmethod
    def of(cls, folder: Location) -> FolderListing:
        """Empty where there is no such folder. Raises UserError if it cannot be listed."""
        listing = cls(folder)
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
        listing.names.sort()
        listing.rejected.sort(key=lambda row: row[0])
        return listing

    def reject(self, name: str, error: Exception) -> None:
        self.rejected.append((name, reject_for(error, Reason.UNREADABLE)))


class _LocalWalk:
    """Follows symbolic links, but lists no file twice.

    A link to a folder is followed unless that folder is listed anyway, or contains the one asked
    for: such a link is a loop. A link to a file counts unless the file is listed anyway.
    """

    def __init__(self, listing: FolderListing) -> None:
        self.listing = listing
        self.top = listing.folder.uri
        self.folders: set[str] = set()  # real paths of those listed
        self.links: list[str] = []  # names of those not looked at yet
        self.walks: list[tuple[str, str, int]] = []  # link, real path, number of its first name

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
        if to_files:
            listed = self.real_paths()
            for name, real in to_files:
                if real not in listed:
                    self.listing.names.append(name)
                    listed.add(real)

    def real_paths(self) -> set[str]:
        """Of all files listed so far."""
        names = self.listing.names
        found: set[str] = set()
        ends = [first for _, _, first in self.walks[1:]] + [len(names)]
        for (link, real, first), end in zip(self.walks, ends):
            begin = len(link) + 1 if link else 0
            found.update(os.path.join(real, name[begin:]) for name in names[first:end])
        return found

    def walk(self, link: str, real: str) -> None:
        """The folder at `real`: the top (``""``), or what the link of this name leads to."""
        self.walks.append((link, real, len(self.listing.names)))
        waiting = [(link, real)]
        while waiting:
            name, real = waiting.pop()
            if real in self.folders:
                continue
            self.folders.add(real)
            try:
                with os.scandir(os.path.join(self.top, name)) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if not name:
                    raise
                self.listing.reject(name, error)
                continue
            for entry in found:
                if entry.name.startswith("."):
                    continue
                inner = os.path.join(name, entry.name)
                if entry.is_symlink():
                    self.links.append(inner)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((inner, os.path.join(real, entry.name)))
                elif entry.is_file(follow_symlinks=False):
                    self.listing.names.append(inner)


def _list_remote(listing: FolderListing) -> None:
    """In one sweep, or level by level where some of it may not be listed."""
    start = len(listing.folder.path.rstrip("/")) + 1

    def add(infos: list[pyarrow.fs.FileInfo]) -> None:
        names = (info.path[start:] for info in infos if info.is_file)
        listing.names += [name for name in names if "/." not in f"/{name}"]

    def levels(folder: Location) -> None:
        infos = folder.children()
        add(infos)
        for info in infos:
            if info.is_file or info.base_name.startswith("."):
                continue
            inner = folder / info.base_name
            try:
                try:
                    add(inner.children(recursive=True))
                except StorageAway:
                    raise
                except (OSError, pa.ArrowException):
                    levels(inner)
            except StorageAway:
                raise
            except (OSError, pa.ArrowException) as error:
                listing.reject(info.path[start:], error)

    try:
        add(listing.folder.children(recursive=True))
    except StorageAway:
        raise
    except (OSError, pa.ArrowException):
        levels(listing.folder)
