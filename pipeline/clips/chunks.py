"""Chunks of files that are probed by one task: each leaves its clips and its rejects as Parquet."""

from __future__ import annotations

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
import pyarrow.parquet as pq
import ray

from pipeline.clips import rejects
from pipeline.clips.cut_tables import cut_id
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo
from pipeline.clips.decoding.isolation import probe_isolated
from pipeline.clips.fetching import fetch_for_probing
from pipeline.clips.rejects import Reason, Reject, kind_of_loss
from pipeline.clips.table import SCHEMA, clip_id
from pipeline.config import ClipsConfig, IndexConfig
from pipeline.errors import UserError
from pipeline.storage import Location
from pipeline.telemetry import metrics

FILES_PER_TASK = 32
_READERS = 32  # files of chunks that are read at once
_COUNTS = b"counts"  # in the metadata of a chunk's clips: what the report adds up


def chunks_by_file(todo: pa.Table, files: int = FILES_PER_TASK) -> list[tuple[int, int]]:
    """Row ranges of `todo` that hold at most `files` runs of equal URIs each."""
    codes = todo["uri"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1) != 0)
    return list(pairwise([*starts[::files].tolist(), len(todo)]))


@dataclass(frozen=True)
class ProbeChunk:
    """Probes one chunk, by its number; returns counts.

    Attributes:
        todo: boxed table of all inputs; chunks: their ranges of rows; scan: where results go.
    """

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
                    asked = cut_id(cut["uri"], cut["start_s"], cut["end_s"])
                    rejected.append(rejected_row("probe", uri, asked, made))
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
                rejected += [
                    rejected_row("probe", uri, None, why, modality) for modality, why in lost
                ]
        empty = SCHEMA.remove(SCHEMA.get_field_index("clip_index"))
        noted = empty.with_metadata({_COUNTS: json.dumps(counts)})
        # The rejects are written last: they mark the chunk as finished.
        name = f"{number:08d}"
        (self.scan / f"{name}-clips.parquet").write_table(pa.Table.from_pylist(clips, noted))
        (self.scan / f"{name}-rejects.parquet").write_table(rejects_table(rejected))
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


def rejected_row(
    stage: str, uri: str, clip: str | None, why: Reject, modality: str | None = None
) -> dict[str, Any]:
    """A row of the rejects; attempts are counted at the end."""
    row = (uri, clip, stage, modality, why.reason.value, why.detail[:500], 0)
    return dict(zip(rejects.SCHEMA.names, row))


def rejects_table(rejected: Iterable[dict[str, Any]]) -> pa.Table:
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


def scanned(scan: Location, num_chunks: int, kind: str, counts: Counter[str]) -> Iterator[pa.Table]:
    """The tables of all chunks in order, read ahead; their counts are added to `counts`."""

    def read(number: int) -> pa.Table:
        # Whole, since on object stores a table read by its columns takes five requests.
        data = (scan / f"{number:08d}-{kind}.parquet").read_bytes()
        return pq.read_table(pa.BufferReader(data))

    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, num_chunks, 4 * _READERS):
            for table in pool.map(read, range(first, min(first + 4 * _READERS, num_chunks))):
                counts.update(json.loads((table.schema.metadata or {}).get(_COUNTS, b"{}")))
                yield table
