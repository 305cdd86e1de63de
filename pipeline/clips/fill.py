"""Fill the clip store: every clip's window decoded once, shrunk, and kept for the rounds to come.

A shard counts when its index is there; an unfinished one is made again. Clips that cannot be
stored are read from their media, and end there as rejects or not, as without a store.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pyarrow as pa
import ray
import ray.data

from pipeline.clips.decoding.byte_index import wanted_ranges
from pipeline.clips.decoding.decoder import MediaFile, load_decoder
from pipeline.clips.decoding.isolation import shrink_isolated
from pipeline.clips.fetching import fetch_for_decoding
from pipeline.clips.rejects import Reject
from pipeline.clips.sampling import reach
from pipeline.clips.store import ENTRY, REQUESTS, ClipStore
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import ClipTable, PublishedClips
from pipeline.config import ClipsConfig, Config
from pipeline.errors import UserError
from pipeline.runtime import demands
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry.progress import Progress

CLIPS_PER_SHARD = 128
FORMAT = 2  # of stored clips; those of format 1 have other colours
_TAR_HEADER = 512  # bytes before a member's data (POSIX ustar)
_SCHEMA = pa.schema(
    [
        ("clip_index", pa.int64()),
        ("offset", pa.int64()),
        ("bytes", pa.int32()),  # 0: could not be stored
        ("origin_s", pa.float64()),  # media time of the stored clip's time 0
    ]
)


def store_place(config: Config, run: Location) -> Location:
    return Location.of(config.store.place) if config.store.place else run / "store"


def publish_clips(clips: ClipTable, run: Location, config: Config) -> PublishedClips:
    """The clips for decoding; where the settings ask for it, from the clip store, filled first."""
    published = clips.publish()
    if not config.store.enabled:
        return published
    return replace(published, store=fill(published, store_place(config, run), config))


def fill(clips: PublishedClips, place: Location, config: Config) -> ClipStore:
    """Store every clip that is not stored yet.

    Raises:
        UserError: the store was made for other clips or other settings.
    """
    _check(place, config)
    size = CLIPS_PER_SHARD
    bounds = [(start, min(start + size, len(clips))) for start in range(0, len(clips), size)]
    names = [f"{number:06d}-{stop - start}" for number, (start, stop) in enumerate(bounds)]
    there = {index.name for index in place.files(".parquet")}
    missing = [number for number, name in enumerate(names) if f"{name}.parquet" not in there]
    if missing:
        work = _FillShard(clips, place, bounds, names, config.clips, config.store.codec)
        left = sum(bounds[number][1] - bounds[number][0] for number in missing)
        on_gpu = load_decoder(config.clips.decoder).on_gpu
        asks, cost = demands.decoding(config.resources, on_gpu), decoding(config.resources, on_gpu)
        demands.refuse_impossible(asks, config.resources)
        with Progress("store", left, "clips", asks, config.resources) as progress:
            run_numbered(work, missing, cost, progress)
    return ClipStore(place, names, [ray.put(_read_index(place, names, len(clips)))])


def _check(place: Location, config: Config) -> None:
    """Raise if the store was made for other settings; note them in a new one."""
    video, audio = config.clips.video, config.clips.audio
    needs = {
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
    made = place / "store.json"
    if not made.exists():
        made.write_json(needs)
        return
    has = made.read_json()
    other = [f"{key}: {has.get(key)} → {now}" for key, now in needs.items() if has.get(key) != now]
    if other:
        raise UserError(
            f"the clip store {place} was made for other settings (there → here): "
            f"{', '.join(other)}. Name another place with store.place=…, or delete it."
        )


@dataclass(frozen=True)
class _FillShard:
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
        tar_bytes, entries = io.BytesIO(), []
        with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            first = self.bounds[number][0]
            for index, file, (start_s, end_s) in zip(count(first), files, reaches):
                media = shrink_isolated(file, start_s, end_s, self.config, self.codec)
                if isinstance(media, Reject):
                    entries.append((index, 0, 0, 0.0))
                    continue
                entries.append((index, tar.offset + _TAR_HEADER, len(media), start_s))
                member = tarfile.TarInfo(f"{index:012d}.mkv")
                member.size = len(media)
                tar.addfile(member, io.BytesIO(media))
        name = self.names[number]
        (self.place / f"{name}.tar").write_bytes(tar_bytes.getbuffer())
        columns = [pa.array(column, kind.type) for column, kind in zip(zip(*entries), _SCHEMA)]
        (self.place / f"{name}.parquet").write_table(pa.table(columns, schema=_SCHEMA))
        return {"done": len(rows), "unreadable": sum(entry[2] == 0 for entry in entries)}


def _read_index(place: Location, names: Sequence[str], clips: int) -> np.ndarray:
    entries = np.zeros(clips, ENTRY)
    with ThreadPoolExecutor(REQUESTS) as pool:
        tables = pool.map(lambda name: (place / f"{name}.parquet").read_table(), names)
        for number, table in enumerate(tables):
            rows = table["clip_index"].to_numpy()
            entries["shard"][rows] = number
            for name in ("offset", "bytes", "origin_s"):
                entries[name][rows] = table[name].to_numpy()
    return entries
