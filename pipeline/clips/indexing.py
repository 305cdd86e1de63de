"""Media in, clips table and rejects table out: every file is probed once and cut into clips.

Every input lands in exactly one of the two tables. Adding media later appends clips and keeps all
clip indices, so labels and features of earlier runs stay valid.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from pipeline.clips import rejects
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo, load_decoder
from pipeline.clips.decoding.isolation import probe_isolated
from pipeline.clips.fetching import fetch_for_probing
from pipeline.clips.listing import list_media
from pipeline.clips.rejects import Reason, Reject, kind_of_loss
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import SCHEMA, clip_id
from pipeline.config import ClipsConfig, Config, IndexConfig
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.progress import Progress

REJECTS = "rejects/index.parquet"
FILES_PER_TASK = 32
CLIPS_PER_PART = 262_144  # rows of one Parquet part of the clips table


@dataclass(frozen=True)
class IndexReport:
    """Counts of one indexing run; ``listed == indexed + rejected`` in units of `unit`."""

    unit: str  # "files", or "cuts" for a cuts table
    listed: int
    already_known: int
    indexed: int
    rejected: int
    lost_video: int  # files of which the sound alone could be used
    lost_audio: int  # and the pictures alone
    clips: int  # added by this run
    total_clips: int
    reasons: dict[str, int]


def index(source: str, run: Location, config: Config, retry_rejects: bool = False) -> IndexReport:
    """List (`list_media`), probe, cut, and append to ``run/clips`` and ``run/rejects``.

    Resumable by chunks of files. `retry_rejects` probes again what an earlier run rejected.

    Raises:
        UserError: there is nothing to index at `source`.
    """
    listing = list_media(source)
    known = _Known(run, retry_rejects)
    todo = listing.filter(pc.invert(known.contains(listing)))
    scan = run / "scratch" / f"index-{_fingerprint(todo, config.index)}"
    chunks = _chunks_by_file(todo, FILES_PER_TASK)
    _probe(todo, chunks, scan, config)
    clips = _append(run / "clips", _scanned(scan, len(chunks), "clips"), known.num_clips)
    none = rejects.SCHEMA.empty_table()
    rejected = pa.concat_tables([none, *_scanned(scan, len(chunks), "rejects")])
    known.add_rejects(run / REJECTS, rejected, tried=todo)
    scan.delete()
    kinds = Counter(map(kind_of_loss, rejected["modality"].to_pylist()))
    return IndexReport(
        unit="files" if listing["start_s"].null_count == len(listing) else "cuts",
        listed=len(listing),
        already_known=len(listing) - len(todo),
        indexed=len(todo) - kinds["rejected"],
        rejected=kinds["rejected"],
        lost_video=kinds["lost_video"],
        lost_audio=kinds["lost_audio"],
        clips=clips,
        total_clips=known.num_clips + clips,
        reasons=dict(Counter(rejected["reason"].to_pylist()).most_common()),
    )


class _Known:
    """What earlier runs indexed or rejected."""

    def __init__(self, run: Location, retry: bool) -> None:
        columns = ["uri", "clip_id"]
        clips = [part.read_table(columns) for part in (run / "clips").files(".parquet")]
        place = run / REJECTS
        self.num_clips = sum(map(len, clips))
        self.rejected = place.read_table() if place.exists() else rejects.SCHEMA.empty_table()
        seen = rejects.SCHEMA.empty_table() if retry else self.rejected
        self.table = pa.concat_tables([*clips, seen.select(columns)])

    def contains(self, listing: pa.Table) -> pa.ChunkedArray | pa.Array:
        """bool [rows]: a file by its URI, a cut by its clip id."""
        by_uri = pc.is_in(listing["uri"], self.table["uri"].combine_chunks())
        if listing["start_s"].null_count == len(listing):
            return by_uri
        ids = pa.array([_cut_id(row) for row in listing.select(_CUT).to_pylist()], pa.string())
        return pc.is_in(ids, self.table["clip_id"].combine_chunks())

    def add_rejects(self, place: Location, new: pa.Table, tried: pa.Table) -> None:
        """Rewrite the rejects table: earlier rejects not tried again, then the new ones."""
        again = pc.is_in(self.rejected["uri"], tried["uri"].combine_chunks())
        attempts = dict(zip(self.rejected["uri"].to_pylist(), self.rejected["attempt"].to_pylist()))
        attempt = [attempts.get(uri, 0) + 1 for uri in new["uri"].to_pylist()]
        new = new.drop_columns("attempt").append_column("attempt", pa.array(attempt, pa.int32()))
        place.write_table(pa.concat_tables([self.rejected.filter(pc.invert(again)), new]))


_CUT = ["uri", "start_s", "end_s"]


def _cut_id(row: dict[str, Any]) -> str | None:
    if row["start_s"] is None or row["end_s"] is None:
        return None
    return clip_id(row["uri"], row["start_s"], row["end_s"])


def _fingerprint(todo: pa.Table, config: IndexConfig) -> str:
    """Names the scratch folder: the same listing and settings go on where they stopped."""
    digest = hashlib.blake2b(config.model_dump_json().encode(), digest_size=8)
    for batch in todo.select(_CUT).to_batches():
        digest.update(repr(batch.to_pydict()).encode())
    return digest.hexdigest()


def _chunks_by_file(todo: pa.Table, files: int) -> list[tuple[int, int]]:
    """Row ranges of `todo` that hold at most `files` runs of equal URIs each."""
    codes = todo["uri"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1) != 0)
    return list(pairwise([*starts[::files].tolist(), len(todo)]))


def _probe(todo: pa.Table, chunks: list[tuple[int, int]], scan: Location, config: Config) -> None:
    """Probe all chunks that no earlier attempt finished; one Parquet pair a chunk."""
    done = {place.name for place in scan.files("rejects.parquet")}
    missing = [n for n in range(len(chunks)) if f"{n:08d}-rejects.parquet" not in done]
    if not missing:
        return
    load_decoder(config.clips.decoder)  # an unknown one is an error here, not in every task
    work = _ProbeChunk([ray.put(todo)], chunks, scan, config.index, config.clips)
    left = sum(stop - start for start, stop in (chunks[n] for n in missing))
    with Progress("index", left, "inputs") as progress:
        run_numbered(work, missing, decoding(config.resources), progress)


@dataclass(frozen=True)
class _ProbeChunk:
    todo: list[ray.ObjectRef]
    chunks: list[tuple[int, int]]
    scan: Location
    config: IndexConfig
    media: ClipsConfig

    def __call__(self, number: int) -> dict[str, int]:
        start, stop = self.chunks[number]
        rows = ray.get(self.todo[0]).slice(start, stop - start).to_pylist()
        clips: list[dict[str, Any]] = []
        rejected: list[dict[str, Any]] = []
        groups = [(uri, [*cuts]) for uri, cuts in groupby(rows, key=itemgetter("uri"))]
        named = [MediaFile(Location.of(uri)) for uri, _ in groups if uri]
        files = fetch_for_probing(named, self.media.timeout_s)
        for uri, cuts in groups:
            info: MediaInfo | Reject
            if uri:
                info = probe_isolated(next(files), self.media.timeout_s, self.media.decoder)
            else:
                info = Reject(Reason.BAD_CUT, "the cuts table names no file in this row")
            before = len(clips)
            for cut in cuts:
                made = clips_of(uri, info, cut, self.config)
                if isinstance(made, Reject):
                    rejected.append(_rejected(uri, _cut_id(cut), None, made))
                else:
                    clips += made
            if isinstance(info, MediaInfo) and len(clips) > before:
                rejected += [_rejected(uri, None, *lost) for lost in info.lost]
        empty = SCHEMA.remove(SCHEMA.get_field_index("clip_index"))
        # The rejects are written last: they mark the chunk as finished.
        name = f"{number:08d}"
        (self.scan / f"{name}-clips.parquet").write_table(pa.Table.from_pylist(clips, empty))
        table = pa.Table.from_pylist(rejected, rejects.SCHEMA)
        (self.scan / f"{name}-rejects.parquet").write_table(table)
        metrics.rejects(row["reason"] for row in rejected)
        kinds = Counter(kind_of_loss(row["modality"]) for row in rejected)
        return {"done": len(rows), "clips": len(clips), **kinds}


def _rejected(uri: str, clip: str | None, modality: str | None, why: Reject) -> dict[str, Any]:
    """A row of the rejects; attempts are counted at the end."""
    row = (uri, clip, "probe", modality, why.reason.value, why.detail[:500], 0)
    return dict(zip(rejects.SCHEMA.names, row))


def clips_of(
    uri: str, info: MediaInfo | Reject, cut: dict[str, Any], config: IndexConfig
) -> list[dict[str, Any]] | Reject:
    """The clips of one input row: the given cut, or equal windows over the whole file."""
    if isinstance(info, Reject):
        return info
    start, end = cut["start_s"], cut["end_s"]
    if start is None and end is None:
        length = info.end_s - info.start_s
        if length < config.min_s:
            return Reject(Reason.TOO_SHORT, f"{length:.3f} s; index.min_s is {config.min_s:g}")
        count = max(int(length // config.window_s), 1)
        edges = np.linspace(info.start_s, info.end_s, count + 1).tolist()
        windows = list(pairwise(edges))
    elif start is None or end is None or not start < end:
        return Reject(Reason.BAD_CUT, f"start_s={start}, end_s={end}")
    elif not info.start_s <= (start + end) / 2 <= info.end_s:
        span = f"[{info.start_s:.3f}, {info.end_s:.3f}]"
        return Reject(Reason.BAD_CUT, f"[{start:g}, {end:g}] s lies outside the file's {span} s")
    else:
        windows = [(start, end)]
    file = vars(info) | {"uri": uri, "label": cut["label"], "split": cut["split"]}
    index = info.byte_index
    return [
        file
        | {"clip_id": clip_id(uri, a, b), "start_s": a, "end_s": b}
        | (index.columns(a, b) if index else {})
        for a, b in windows
    ]


def _scanned(scan: Location, num_chunks: int, kind: str) -> Iterator[pa.Table]:
    for number in range(num_chunks):
        yield (scan / f"{number:08d}-{kind}.parquet").read_table()


def _append(folder: Location, tables: Iterator[pa.Table], first: int) -> int:
    """Append clips as parts, numbered from `first` on; return how many.

    A part holds whole files: after a kill between two parts, the other files are not known yet.
    """
    start = first
    for number, table in enumerate(_joined(tables), len(list(folder.files(".parquet")))):
        indices = pa.array(np.arange(start, start + len(table)), pa.int64())
        part = pa.table([indices, *table.select(SCHEMA.names[1:]).columns], schema=SCHEMA)
        (folder / f"part-{number:06d}.parquet").write_table(part)
        start += len(table)
    return start - first


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables joined to ones of at least `CLIPS_PER_PART` rows, and the rest."""
    held: list[pa.Table] = []
    for table in tables:
        if len(table):
            held.append(table)
        if sum(map(len, held)) >= CLIPS_PER_PART:
            yield pa.concat_tables(held)
            held.clear()
    if held:
        yield pa.concat_tables(held)
