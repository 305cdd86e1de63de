"""Fill the clip store: every clip's window decoded once, shrunk, and kept for the rounds to come.

A shard counts when its index is there and both are whole; else it is made again. It is named by
its content (`shard_index`), so several runs may share a store, and fill it at once. Clips that
cannot be stored are read from their media, and end there as rejects or not, as without a store.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from pipeline.clips.decoding.byte_index import wanted_ranges
from pipeline.clips.decoding.decoder import MediaFile, load_decoder
from pipeline.clips.decoding.isolation import shrink_isolated
from pipeline.clips.deleted import Losses, check_media, loss
from pipeline.clips.fetching import fetch_for_decoding
from pipeline.clips.outage import Outage
from pipeline.clips.rejects import AWAY, Reject
from pipeline.clips.sampling import reach
from pipeline.clips.shard_index import (
    COLUMNS,
    SCHEMA,
    DamagedShard,
    ShardIndex,
    checksum,
    shard_names,
    tar_name,
)
from pipeline.clips.store import ENTRY, REQUESTS, ClipStore
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import ClipsConfig, Config
from pipeline.errors import UserError
from pipeline.runtime import demands
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.console import say
from pipeline.telemetry.progress import Progress

CLIPS_PER_SHARD = 128
FORMAT = 3  # of the store; in format 2 a shard was named by its place in the clips table
_TAR_HEADER = 512  # bytes before a member's data (POSIX ustar)


def store_place(config: Config, run: Location) -> Location:
    return Location.of(config.store.place) if config.store.place else run / "store"


def publish_clips(
    clips: ClipTable, run: Location, config: Config, may_fill: bool = True
) -> PublishedClips:
    """The clips for decoding; where the settings ask for it, from the clip store, filled first.

    Without `may_fill` a store that is not full is left alone, and the clips come from their media.
    """
    published = clips.publish()
    if not config.store.enabled:
        return published
    return replace(published, store=fill(published, store_place(config, run), config, may_fill))


def fill(
    clips: PublishedClips, place: Location, config: Config, may_fill: bool = True
) -> ClipStore | None:
    """Store every clip that is not stored yet; None if some are not, and it may not.

    Raises:
        UserError: the store was made for other settings.
    """
    if not may_fill and not (place / "store.json").exists():
        return None
    settings = check_settings(place, config)
    size = CLIPS_PER_SHARD
    bounds = [(start, min(start + size, len(clips))) for start in range(0, len(clips), size)]
    names = shard_names(clips.table.read_parts(COLUMNS), settings, size)
    found = _Indexes(place, names, bounds)
    sizes = {info.base_name: info.size for info in place.children()}
    there = [number for number, name in enumerate(names) if f"{name}.parquet" in sizes]
    if damaged := found.read(there, sizes):
        count = f"{len(damaged):,}"
        say(f"store · {place} has damaged shards, made again: {count}, such as {damaged[0]}")
    missing = [number for number, tar in enumerate(found.tars) if not tar]
    if missing and not may_fill:
        return None
    if missing:
        work = FillShard(clips, place, bounds, names, config.clips, config.store.codec)
        left = sum(bounds[number][1] - bounds[number][0] for number in missing)
        on_gpu = load_decoder(config.clips.decoder).on_gpu
        asks, cost = demands.decoding(config.resources, on_gpu), decoding(config.resources, on_gpu)
        demands.refuse_impossible(asks, config.resources)
        with Progress("store", left, "clips", asks, config.resources) as progress:
            run_numbered(work, missing, cost, progress)
        # By their names: a listing may not have them yet.
        if damaged := found.read(missing, {}):
            raise UserError(f"the clip store {place} does not keep what it is given: {damaged[0]}")
        found.check_media(clips, missing, config.clips.max_rejected)
    return ClipStore(place, found.tars, [ray.put(found.entries)])


def check_settings(place: Location, config: Config) -> dict[str, Any]:
    """The settings that shape stored clips; noted in a new store.

    Raises:
        UserError: the store was made for others.
    """
    needs, made = shaping(config), place / "store.json"
    try:
        has = made.read_json()
        other = [f"{key}: {has[key]} → {now}" for key, now in needs.items() if has[key] != now]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        # New, or damaged: the shards' names have the settings, too.
        made.write_json(needs)
        return needs
    if other:
        raise UserError(
            f"the clip store {place} was made for other settings (there → here): "
            f"{', '.join(other)}. Name another place with store.place=…, or delete it."
        )
    return needs


def shaping(config: Config) -> dict[str, Any]:
    """What shapes stored clips."""
    video, audio = config.clips.video, config.clips.audio
    return {
        "short_side": max(video.short_side, video.train_short_side[1], video.size),
        "fps": video.fps,
        "region": list(video.region) if video.region else None,
        "rate": audio.rate,
        "span_s": config.clips.span_s,
        "align": audio.align,
        "jitter_s": config.clips.jitter_s,
        "clips_per_shard": CLIPS_PER_SHARD,
        "codec": config.store.codec,
        "format": FORMAT,
    }


def not_stored(clips: ClipTable, place: Location, config: Config) -> int:
    """Clips of shards that have no index in the store at `place`, which is only read."""
    if not (place / "store.json").exists():
        return len(clips)
    names = shard_names(clips.read_parts(COLUMNS), shaping(config), CLIPS_PER_SHARD)
    there = {info.base_name for info in place.children()}
    lacking = [number for number, name in enumerate(names) if f"{name}.parquet" not in there]
    last = len(clips) - CLIPS_PER_SHARD * (len(names) - 1)
    return sum(last if number + 1 == len(names) else CLIPS_PER_SHARD for number in lacking)


@dataclass(frozen=True)
class FillShard:
    """Writes the tar and the index of a shard, by its number; returns counts."""

    clips: PublishedClips
    place: Location
    bounds: Sequence[tuple[int, int]]
    names: Sequence[str]
    config: ClipsConfig
    codec: str

    def __call__(self, number: int) -> dict[str, int]:
        rows = self.clips.take(np.arange(*self.bounds[number])).to_pylist()
        reaches = [reach(row["start_s"], row["end_s"], self.config) for row in rows]
        needed = [(MediaFile.of(row), wanted_ranges(row, *r)) for row, r in zip(rows, reaches)]
        files = fetch_for_decoding(needed, self.config.timeout_s)
        tar_bytes, entries = io.BytesIO(), list[tuple[Any, ...]]()
        with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row, file, (start_s, end_s) in zip(rows, files, reaches):
                clip_id = row["clip_id"]
                media = shrink_isolated(file, start_s, end_s, self.config, self.codec)
                if isinstance(media, Reject):
                    entries.append((clip_id, 0, 0, 0.0, 0, media.reason.value))
                    continue
                at = tar.offset + _TAR_HEADER
                entries.append((clip_id, at, len(media), start_s, checksum(media), None))
                member = tarfile.TarInfo(f"{clip_id}.mkv")
                member.size = len(media)
                tar.addfile(member, io.BytesIO(media))
        name, data = self.names[number], tar_bytes.getbuffer()
        tar_file = tar_name(name, data)
        (self.place / tar_file).write_bytes(data)
        columns = [pa.array(column, kind.type) for column, kind in zip(zip(*entries), SCHEMA)]
        ShardIndex(name, tar_file, len(data), pa.table(columns, schema=SCHEMA)).write(self.place)
        return {"done": len(rows), "unreadable": sum(entry[2] == 0 for entry in entries)}


class _Indexes:
    """What a store has of the clips, as far as its shards are whole."""

    def __init__(
        self, place: Location, names: Sequence[str], bounds: Sequence[tuple[int, int]]
    ) -> None:
        self.place, self.names, self.bounds = place, names, bounds
        self.tars = [""] * len(names)  # file names; empty: no whole shard
        self.entries = np.zeros(bounds[-1][1], ENTRY)
        # Shard → (clip index, reason) of clips whose media did not come.
        self.away: dict[int, list[tuple[int, str]]] = {}

    def read(self, numbers: Sequence[int], sizes: Mapping[str, int]) -> list[str]:
        """Take these shards up; returns what is wrong with those that are not whole.

        `sizes` are those of the files there, as far as a listing had them.
        """
        with ThreadPoolExecutor(REQUESTS) as pool:
            found = pool.map(lambda number: self._take(number, sizes), numbers)
            return [why for why in found if why]

    def check_media(self, clips: PublishedClips, made: Sequence[int], allowed: float) -> None:
        """Raise `Outage` if so many media did not come that they are away.

        Shards that lack clips by it do not count then.
        """
        losses: Losses = Counter()
        for number in self.away.keys() & made:
            lost, reasons = zip(*self.away[number])
            losses.update(map(loss, clips.take(np.array(lost))["uri"].to_pylist(), reasons))
        tried = sum(stop - start for start, stop in (self.bounds[number] for number in made))
        try:
            check_media("store", losses, tried, allowed)
        except Outage:
            for number in self.away.keys() & made:
                (self.place / f"{self.names[number]}.parquet").delete()
            raise

    def _take(self, number: int, sizes: Mapping[str, int]) -> str:
        start, stop = self.bounds[number]
        try:
            index = ShardIndex.read(self.place, self.names[number], stop - start)
        except (DamagedShard, FileNotFoundError) as error:
            return str(error)
        size = sizes.get(index.tar)
        if size is None:
            size = (self.place / index.tar).info().size
        if size != index.tar_bytes:
            return f"{index.tar} has {size or 0:,} of {index.tar_bytes:,} bytes"
        self.tars[number] = index.tar
        reasons = index.clips["reason"]
        told = enumerate(reasons.to_pylist(), start) if reasons.null_count < len(reasons) else ()
        if away := [(clip, reason) for clip, reason in told if reason in AWAY]:
            self.away[number] = away
        self.entries["shard"][start:stop] = number
        for name in ("offset", "bytes", "origin_s", "checksum"):
            self.entries[name][start:stop] = index.clips[name].to_numpy()
        return ""
