"""Chunks of files that are probed by one task: each leaves one file, with clips and rejects."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipeline.clips import rejects
from pipeline.clips.cut_tables import cut_id
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo
from pipeline.clips.decoding.isolation import probe_isolated
from pipeline.clips.fetching import fetch_for_probing
from pipeline.clips.rejects import Reason, Reject, kind_of_loss
from pipeline.clips.table import SCHEMA, SCHEMA_VERSION, clip_id
from pipeline.clips.windows import windows
from pipeline.config import ClipsConfig, IndexConfig
from pipeline.errors import UserError, parsing
from pipeline.manifest import signed, unsigned
from pipeline.storage import Location
from pipeline.telemetry import metrics

FILES_PER_TASK = 32  # of a chunk, on average
_LONGEST = 4  # a chunk has at most so many times as many
_ROWS_HELD = 16_384  # clips that are objects of Python at once: dense windows are many
_COUNTS = b"counts"  # in the metadata of a chunk's clips: what the report adds up
_CLIPS = SCHEMA.remove(SCHEMA.get_field_index("clip_index"))


def chunk_ends(uri_keys: np.ndarray) -> np.ndarray:
    """int64: where chunks of a list end, the last row of which need not end one.

    A chunk ends behind a file whose own key says so. So files that are added to a list, or taken
    out of it, change the chunks that they are in and no others.

    Args:
        uri_keys: uint64 [rows]; rows of one file that follow each other stay together.
    """
    files = np.flatnonzero(uri_keys[1:] != uri_keys[:-1]) + 1  # where they end
    by_key = np.flatnonzero(uri_keys[files - 1] % np.uint64(FILES_PER_TASK) == 0)
    most = FILES_PER_TASK * _LONGEST
    ends: list[int] = []
    for start, stop in pairwise([-1, *by_key.tolist(), len(files)]):
        ends += range(start + most, stop, most)
        ends += [stop] if stop < len(files) else []
    return files[ends].astype(np.int64)


def chunk_names(
    rows: pa.Table, ends: Sequence[int], config: IndexConfig, decoder: str
) -> list[str]:
    """A name for each chunk of a worklist, of all that its result depends on but the media."""
    settings = [SCHEMA_VERSION, config.model_dump_json(), decoder]
    none = "\0"  # in no name and no label
    columns = [
        pc.fill_null(rows[name].cast(pa.string()), none)
        for name in ("uri", "start_s", "end_s", "label", "split")
    ]
    # One text a row, all of them in one buffer: no row becomes an object of Python.
    between = pa.scalar(none, pa.large_string())
    joined = pc.binary_join_element_wise(*(c.cast(between.type) for c in columns), between)
    text = pa.concat_arrays(joined.chunks)
    _, offsets, data = text.buffers()
    at = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    seed = json.dumps(settings).encode()
    names = []
    for start, stop in pairwise([0, *ends]):
        digest = hashlib.blake2b(seed, digest_size=16)
        digest.update((at[start : stop + 1] - at[start]).tobytes())
        digest.update(memoryview(data)[at[start] : at[stop]])
        names.append(digest.hexdigest())
    return names


@dataclass(frozen=True)
class ProbeChunk:
    """Probes one chunk, by its number; returns counts.

    Attributes:
        rows: boxed table of all inputs; ends: of their chunks; places: of the chunks' results.
    """

    rows: list[ray.ObjectRef]
    ends: Sequence[int]
    places: Sequence[Location]
    config: IndexConfig
    media: ClipsConfig

    def __call__(self, number: int) -> dict[str, int]:
        start = self.ends[number - 1] if number else 0
        chunk = ray.get(self.rows[0]).slice(start, self.ends[number] - start)
        rows = chunk.select(["uri", "start_s", "end_s", "label", "split"]).to_pylist()
        clips: list[dict[str, Any]] = []
        tables: list[pa.Table] = []
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
            if len(clips) >= _ROWS_HELD:
                tables.append(pa.Table.from_pylist(clips, _CLIPS))
                clips = []
        tables.append(pa.Table.from_pylist(clips, _CLIPS))
        noted = {_COUNTS: json.dumps(counts)}
        found = pa.concat_tables(tables).combine_chunks().replace_schema_metadata(noted)
        probed = Probed(rejects_table(rejected), found, counts)
        self.places[number].write_bytes(probed.packed())
        metrics.rejects(row["reason"] for row in rejected)
        kinds = Counter(kind_of_loss(row["modality"]) for row in rejected)
        return {"done": len(rows), "clips": len(found), **kinds}

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
    """The clips of one input row: the given cut, or windows over the whole file."""
    if isinstance(info, Reject):
        return info
    start, end = cut["start_s"], cut["end_s"]
    if start is None:
        length = info.end_s - info.start_s
        if length < config.min_s:
            return Reject(Reason.TOO_SHORT, f"{length:.3f} s; index.min_s is {config.min_s:g}")
        cut_up = windows(info.start_s, info.end_s, config)
    else:
        from_s, to_s = max(start, info.start_s), min(end, info.end_s)
        left = to_s - from_s
        if left <= 0 or left < min(config.min_s, end - start):
            span = f"[{info.start_s:.3f}, {info.end_s:.3f}]"
            much = f"{left:.3f} s of it" if left > 0 else "nothing of it"
            detail = f"[{start:g}, {end:g}] s: {much} lies in the file's {span} s"
            return Reject(Reason.BAD_CUT, detail)
        cut_up = [(from_s, to_s)]
    file = vars(info) | {"uri": uri, "label": cut["label"], "split": cut["split"]}
    # A cut keeps the id of what was asked for, by which it is known again.
    asked = cut_up if start is None else [(start, end)]
    index = info.byte_index
    return [
        file
        | {"clip_id": clip_id(uri, *ask), "start_s": a, "end_s": b}
        | (index.columns(a, b) if index else {})
        for ask, (a, b) in zip(asked, cut_up)
    ]


@dataclass(frozen=True)
class Probed:
    """What a chunk's task has found.

    In its file the rejects come first, as Arrow streams that are compressed and signed: a table of
    Parquet takes ten times as long to open, and there are very many of these.
    """

    rejects: pa.Table  # `rejects.SCHEMA`
    clips: pa.Table  # the clips table's schema without ``clip_index``
    counts: Counter[str]

    def packed(self) -> bytes:
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        for table in (self.rejects, self.clips):
            with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
                stream.write_table(table)
        return signed(sink.getvalue().to_pybytes())

    @classmethod
    def read(cls, place: Location) -> Probed:
        """Raises Malformed if it is not as it was written."""
        rejected, clips = _tables(place, 2)
        return cls(rejected, clips, Counter(json.loads(clips.schema.metadata[_COUNTS])))


def read_rejects(place: Location) -> pa.Table:
    """`Probed.rejects` alone, of a chunk's file."""
    return _tables(place, 1)[0]


def _tables(place: Location, count: int) -> list[pa.Table]:
    data = place.read_bytes()
    with parsing(place, "a chunk of probed files; delete it, and they are probed again"):
        stream = pa.BufferReader(unsigned(data))
        return [pa.ipc.open_stream(stream).read_all() for _ in range(count)]
