"""The clip store, as decoding reads it: every clip's window, shrunk, as a byte range of a shard.

    store/  store.json  3f0c…91.parquet  3f0c…91-5d2b77a0.tar  …

A shard is a tar file, for stock tools, of small Matroska files named by clip id. Its Parquet index
(`shard_index`) has the byte range and the checksum of every stored clip, so that a clip is one
range read. `fill` makes both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline.clips.rejects import Reason, Reject
from pipeline.clips.shard_index import checksum
from pipeline.objects import RemoteObject
from pipeline.patience import patiently
from pipeline.storage import Location

ENTRY = np.dtype(
    [("shard", "i4"), ("offset", "i8"), ("bytes", "i4"), ("origin_s", "f8"), ("checksum", "u4")]
)
REQUESTS = 16  # range reads in flight of one process


@dataclass(frozen=True)
class StoredClip:
    """A small Matroska file and the media time of its time 0."""

    media: bytes = field(repr=False)
    origin_s: float


@dataclass(frozen=True)
class ClipStore:
    """A filled store."""

    location: Location
    shards: Sequence[str]  # names of the tars, by number
    index: list[ray.ObjectRef]  # boxed reference to `ENTRY` [N]

    def entries(self, clips: np.ndarray) -> pa.StructArray:
        """Where clip indices lie, as `read_stored` takes it; ``bytes`` 0: not stored."""
        found = ray.get(self.index[0])[clips]
        tars = pa.array([self.shards[number] for number in found["shard"]], pa.string())
        names = [name for name in ENTRY.names or () if name != "shard"]
        columns = [pa.array(np.ascontiguousarray(found[name])) for name in names]
        return pa.StructArray.from_arrays([tars, *columns], ["tar", *names])


def read_stored(
    location: Location, entries: Sequence[Mapping[str, Any]]
) -> Iterator[StoredClip | Reject | None]:
    """Stored clips by their entries (see `ClipStore`), read ahead; None where there is none.

    A reject where the store is damaged. Its shard then counts no more: the next `fill` makes it
    again.
    """

    def stored(entry: Mapping[str, Any]) -> StoredClip | Reject | None:
        return _stored(location, entry)

    if location.is_local:
        yield from map(stored, entries)
        return
    pool = ThreadPoolExecutor(REQUESTS)
    try:
        # A batch of clips is small beside what it is decoded to.
        yield from pool.map(stored, entries)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _stored(location: Location, entry: Mapping[str, Any]) -> StoredClip | Reject | None:
    if entry["bytes"] == 0:
        return None
    place, start = location / entry["tar"], entry["offset"]
    stop = start + entry["bytes"]
    try:
        if place.is_local:
            media = _opened(place).read_at(stop - start, start)
        else:
            media = patiently(str(place), lambda: _ranged(place, start, stop))
    except FileNotFoundError:
        media = b""
    if checksum(media) == entry["checksum"]:
        return StoredClip(media, entry["origin_s"])
    with suppress(OSError):  # another reader may have been first
        (location / f"{entry['tar'].partition('-')[0]}.parquet").delete()
    return Reject(Reason.CORRUPT, f"stored in {place}, damaged there; read from its media")


def _ranged(place: Location, start: int, stop: int) -> bytes:
    return RemoteObject(place, patient=False).read(start, stop)


@lru_cache(maxsize=256)
def _opened(shard: Location) -> pa.NativeFile:
    return shard.fs.open_input_file(shard.path)
