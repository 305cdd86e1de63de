"""The seal of a finished stage: which files it made, and what each holds.

A folder counts when its ``_DONE`` is there. That is the folder's manifest: names, sizes and digests
of the files, and what they were made of. It is written last, by the driver alone, while it holds
the lease of the place (lease.py). So a file that was cut, changed or lost is found when it is
loaded, and never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline import lease
from pipeline.errors import UserError
from pipeline.storage import Location

FORMAT = 1
NAME = "_DONE"
_REQUESTS = 8  # files read at once
_DIGEST_BYTES = 16


class Damaged(UserError):
    """A file is not what its stage wrote. Pretraining makes it again; readers report it."""

    def __init__(self, place: Location, what: str) -> None:
        super().__init__(
            f"{place} is damaged: {what}. `python jobs/pretrain.py` on this run makes it again"
        )
        self.place, self.what = place, what

    def __reduce__(self) -> tuple[type[Damaged], tuple[Location, str]]:
        return type(self), (self.place, self.what)


@dataclass(frozen=True)
class Entry:
    """One file of a manifest."""

    size: int  # bytes
    digest: str  # see `digest_of`
    notes: Mapping[str, Any] = field(default_factory=dict)  # what its stage wants to know of it

    @classmethod
    def of(cls, data: bytes | memoryview, **notes: Any) -> Entry:
        return cls(len(data), digest_of(data), notes)


@dataclass(frozen=True)
class Manifest:
    """What a finished folder holds."""

    folder: Location
    files: Mapping[str, Entry]  # by path below the folder
    made_of: Mapping[str, Any]  # what the stage depended on; another value: to be done again

    @classmethod
    def read(cls, folder: Location) -> Manifest | None:
        """The folder's manifest; None where it is not finished.

        Raises:
            Damaged: _DONE is not as it was written.
            UserError: it is of another format.
        """
        place = folder / NAME
        try:
            text = place.read_bytes()
        except FileNotFoundError:
            return None
        try:
            tree = json.loads(unsigned(text))
            files = {name: Entry(*entry) for name, entry in tree["files"].items()}
            made, form = dict(tree["made_of"]), tree["format"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(place, "it holds no manifest") from error
        if form != FORMAT:
            raise UserError(f"{place} has format {form}, this release reads {FORMAT}")
        return cls(folder, files, made)

    @classmethod
    def whole(cls, folder: Location) -> Manifest | None:
        """`read`, after a look at the sizes of all files.

        Raises:
            Damaged: _DONE or a file is not as it was written, or is gone.
        """
        found = cls.read(folder)
        if found is not None:
            found.check_sizes()
        return found

    def check_sizes(self) -> None:
        """Raises Damaged for the first file that is gone or has another size."""
        sizes: dict[str, int] = {}
        for below in {name.rpartition("/")[0] for name in self.files}:
            folder = self.folder / below if below else self.folder
            listed = {info.base_name: info.size for info in folder.children() if info.is_file}
            sizes |= {f"{below}/{name}" if below else name: n for name, n in listed.items()}
        for name, entry in self.files.items():
            if name not in sizes:
                # A listing may lag behind what was written.
                _check(self.folder / name, entry, _read(self.folder / name))
            elif sizes[name] != entry.size:
                what = f"it has {sizes[name]:,} bytes, {entry.size:,} were written"
                raise Damaged(self.folder / name, what)

    def check_content(self, names: Iterable[str] | None = None) -> None:
        """Read these files, by default all. Raises Damaged for the first that has changed."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(self.load, self.files if names is None else names))

    def load(self, name: str) -> bytes:
        """A file's bytes. Raises Damaged if they are not those that were written."""
        place = self.folder / name
        data = _read(place)
        _check(place, self.files[name], data)
        return data


def seal(folder: Location, files: Mapping[str, Entry], **made_of: Any) -> None:
    """Write _DONE: the folder counts from now on.

    Raises:
        UserError: another process has taken over a lease that this one held.
    """
    lease.check_held()
    listed = {n: [e.size, e.digest, dict(e.notes)] for n, e in sorted(files.items())}
    tree = {"format": FORMAT, "files": listed, "made_of": made_of}
    (folder / NAME).write_bytes(signed(json.dumps(tree, indent=1, sort_keys=True).encode()))


def seal_written(folder: Location, names: Iterable[str], **made_of: Any) -> None:
    """`seal` of files that are on storage: each is read once more."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        entries = pool.map(lambda name: Entry.of((folder / name).read_bytes()), [*names])
        seal(folder, dict(zip(names, entries)), **made_of)


def digest_of(data: bytes | memoryview) -> str:
    """BLAKE2b, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def signed(data: bytes) -> bytes:
    """The data and a line of its digest: for small files that nothing else vouches for."""
    return data + b"\n#" + digest_of(data).encode()


def unsigned(data: bytes) -> bytes:
    """The data of `signed`. Raises ValueError if it is not as it was written."""
    text, mark, digest = data.rpartition(b"\n#")
    if not mark or digest != digest_of(text).encode():
        raise ValueError("its digest does not fit")
    return text


def _read(place: Location) -> bytes:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        raise Damaged(place, "it is gone") from None


def _check(place: Location, entry: Entry, data: bytes) -> None:
    if len(data) != entry.size:
        raise Damaged(place, f"it has {len(data):,} bytes, {entry.size:,} were written")
    if digest_of(data) != entry.digest:
        raise Damaged(place, "its content has changed since it was written")
