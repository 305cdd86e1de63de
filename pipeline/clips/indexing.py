"""Media in, clips table and rejects table out: every file is probed once and cut into clips.

Every input lands in exactly one of the two tables. Adding media later appends clips and keeps all
clip indices, so labels and features of earlier runs stay valid.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from pipeline.clips.cut_tables import cut_id
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo, load_decoder
from pipeline.clips.decoding.isolation import probe_isolated
from pipeline.clips.fetching import fetch_for_probing
from pipeline.clips.known import KnownInputs, cut_ids
from pipeline.clips.listing import list_media
from pipeline.clips.rejects import Reason, Reject, kind_of_loss
from pipeline.clips.stream import run_numbered
from pipeline.clips.table import SCHEMA, clip_id
from pipeline.config import ClipsConfig, Config, IndexConfig
from pipeline.errors import UserError
from pipeline.runtime.placement import decoding
from pipeline.storage import Location
from pipeline.telemetry import metrics
from pipeline.telemetry.progress import Progress

REJECTS = "rejects/index.parquet"
FILES_PER_TASK = 32
CLIPS_PER_PART = 262_144  # rows of one Parquet part of the clips table
_READERS = 32  # scratch files that are read at once
_COUNTS = b"counts"  # in the metadata of a chunk's clips: what the report adds up


@dataclass(frozen=True)
class IndexReport:
    """Counts of one indexing run; ``listed == indexed + rejected`` in units of `unit`."""

    unit: str  # "files", or "cuts" for a cuts table
    listed: int
    repeated: int  # rows of a cuts table that ask for what an earlier row asks for; not listed
    already_known: int
    indexed: int
    rejected: int
    lost_video: int  # files of which the sound alone could be used
    lost_audio: int  # and the pictures alone
    shortened: int  # cuts that reach past their file, and end with it
    unused_video_s: float  # seconds of the files' pictures without sound, which are in no clip
    unused_audio_s: float  # and of their sound without pictures
    clips: int  # added by this run
    total_clips: int
    reasons: dict[str, int]
    notes: tuple[str, ...]  # on the cuts table, a line each


def index(source: str, run: Location, config: Config, retry_rejects: bool = False) -> IndexReport:
    """List (`list_media`), probe, cut, and append to ``run/clips`` and ``run/rejects``.

    Resumable by chunks of files. `retry_rejects` probes again what an earlier run rejected.

    Raises:
        UserError: there is nothing to index at `source`.
    """
    listing = list_media(source)
    known = KnownInputs(run / "clips", run / REJECTS, retry_rejects)
    ids = cut_ids(listing.rows)
    new = pc.invert(known.contains(listing.rows["uri"], ids))
    todo, tried = listing.rows.filter(new), ids.filter(new)
    unlisted = _table_of(_rejected("list", *row) for row in listing.rejected)
    unlisted = unlisted.filter(pc.invert(known.contains(unlisted["uri"], unlisted["clip_id"])))
    scan = run / "scratch" / f"index-{_fingerprint(todo, config.index)}"
    chunks = _chunks_by_file(todo, FILES_PER_TASK)
    _probe(todo, chunks, scan, config)
    counts: Counter[str] = Counter()
    clips = _append(run / "clips", _scanned(scan, len(chunks), "clips", counts), known.num_clips)
    rejected = pa.concat_tables([unlisted, *_scanned(scan, len(chunks), "rejects", counts)])
    rejected = known.write_rejects(rejected, tried=pa.table({"uri": todo["uri"], "clip_id": tried}))
    scan.delete()
    counts.update(map(kind_of_loss, rejected["modality"].to_pylist()))
    listed, fresh = len(listing.rows) + len(listing.rejected), len(todo) + len(unlisted)
    whole = listing.rows["start_s"].null_count == len(listing.rows)
    return IndexReport(
        unit="files" if whole and not any(cut for _, cut, _ in listing.rejected) else "cuts",
        listed=listed,
        repeated=listing.repeated,
        already_known=listed - fresh,
        indexed=fresh - counts["rejected"],
        rejected=counts["rejected"],
        lost_video=counts["lost_video"],
        lost_audio=counts["lost_audio"],
        shortened=counts["shortened"],
        unused_video_s=counts["unused_video_ms"] / 1000,
        unused_audio_s=counts["unused_audio_ms"] / 1000,
        clips=clips,
        total_clips=known.num_clips + clips,
        reasons=dict(Counter(rejected["reason"].to_pylist()).most_common()),
        notes=tuple(listing.notes),
    )


_CUT = ["uri", "start_s", "end_s"]


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
        counts: Counter[str] = Counter()
        groups = [(uri, [*cuts]) for uri, cuts in groupby(rows, key=itemgetter("uri"))]
        for (uri, cuts), info in zip(groups, self._probed([uri for uri, _ in groups])):
            before = len(clips)
            for cut in cuts:
                made = clips_of(uri, info, cut, self.config)
                if isinstance(made, Reject):
                    asked = cut_id(*(cut[name] for name in _CUT))
                    rejected.append(_rejected("probe", uri, asked, made))
                    continue
                clips += made
                if cut["start_s"] is not None:
                    edges = made[0]["start_s"], made[0]["end_s"]
                    counts["shortened"] += edges != (cut["start_s"], cut["end_s"])
                elif isinstance(info, MediaInfo):
                    counts["unused_video_ms"] += round(1000 * info.unused_video_s)
                    counts["unused_audio_ms"] += round(1000 * info.unused_audio_s)
            if isinstance(info, MediaInfo) and len(clips) > before:
                lost = info.lost
                rejected += [_rejected("probe", uri, None, why, modality) for modality, why in lost]
        empty = SCHEMA.remove(SCHEMA.get_field_index("clip_index"))
        noted = empty.with_metadata({_COUNTS: json.dumps(counts)})
        # The rejects are written last: they mark the chunk as finished.
        name = f"{number:08d}"
        (self.scan / f"{name}-clips.parquet").write_table(pa.Table.from_pylist(clips, noted))
        (self.scan / f"{name}-rejects.parquet").write_table(_table_of(rejected))
        metrics.rejects(row["reason"] for row in rejected)
        kinds = Counter(kind_of_loss(row["modality"]) for row in rejected)
        return {"done": len(rows), "clips": len(clips), **kinds}

    def _probed(self, uris: Sequence[str]) -> Iterator[MediaInfo | Reject]:
        """What files hold, in order; the next ones are read from storage meanwhile."""
        named = [_named(uri) for uri in uris]
        files = fetch_for_probing(
            [file for file in named if isinstance(file, MediaFile)], self.media.timeout_s
        )
        for file in named:
            if isinstance(file, Reject):
                yield file
            else:
                yield probe_isolated(next(files), self.media.timeout_s, self.media.decoder)


def _named(uri: str) -> MediaFile | Reject:
    try:
        return MediaFile(Location.of(uri))
    except UserError as error:
        return Reject(Reason.UNREADABLE, str(error))


def _rejected(
    stage: str, uri: str, clip: str | None, why: Reject, modality: str | None = None
) -> dict[str, Any]:
    """A row of the rejects; attempts are counted at the end."""
    row = (uri, clip, stage, modality, why.reason.value, why.detail[:500], 0)
    return dict(zip(rejects.SCHEMA.names, row))


def _table_of(rejected: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rejected), rejects.SCHEMA)


def clips_of(
    uri: str, info: MediaInfo | Reject, cut: dict[str, Any], config: IndexConfig
) -> list[dict[str, Any]] | Reject:
    """The clips of one input row: the given cut, or equal windows over the whole file."""
    if isinstance(info, Reject):
        return info
    start, end = cut["start_s"], cut["end_s"]
    if start is None:
        length = info.end_s - info.start_s
        if length < config.min_s:
            return Reject(Reason.TOO_SHORT, f"{length:.3f} s; index.min_s is {config.min_s:g}")
        count = max(int(length // config.window_s), 1)
        edges = np.linspace(info.start_s, info.end_s, count + 1).tolist()
        windows = list(pairwise(edges))
    else:
        from_s, to_s = max(start, info.start_s), min(end, info.end_s)
        left = to_s - from_s
        if left <= 0 or left < min(config.min_s, end - start):
            span = f"[{info.start_s:.3f}, {info.end_s:.3f}]"
            much = f"{left:.3f} s of it" if left > 0 else "nothing of it"
            detail = f"[{start:g}, {end:g}] s: {much} lies in the file's {span} s"
            return Reject(Reason.BAD_CUT, detail)
        windows = [(from_s, to_s)]
    file = vars(info) | {"uri": uri, "label": cut["label"], "split": cut["split"]}
    # A cut keeps the id of what was asked for, by which it is known again.
    asked = windows if start is None else [(start, end)]
    index = info.byte_index
    return [
        file
        | {"clip_id": clip_id(uri, *ask), "start_s": a, "end_s": b}
        | (index.columns(a, b) if index else {})
        for ask, (a, b) in zip(asked, windows)
    ]


def _scanned(
    scan: Location, num_chunks: int, kind: str, counts: Counter[str]
) -> Iterator[pa.Table]:
    """The tables of all chunks in order, read ahead; their counts are added to `counts`."""

    def read(number: int) -> pa.Table:
        return (scan / f"{number:08d}-{kind}.parquet").read_table()

    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, num_chunks, 4 * _READERS):
            for table in pool.map(read, range(first, min(first + 4 * _READERS, num_chunks))):
                counts.update(json.loads((table.schema.metadata or {}).get(_COUNTS, b"{}")))
                yield table


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
