"""The table of vectors: feature shards joined with the clips table, one range of clips a task.

    vectors/<modality>/part-000000.parquet   rejects/part-000000.parquet

A part holds what there is of a fixed range of clip indices, in their order. So its name and bytes
follow from the clips and their features, however often the work was stopped. A record in scratch
says what a part was made of. Imports no torch: tasks start fast.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipeline.clips import rejects
from pipeline.clips.rejects import Reason
from pipeline.clips.table import ClipTable
from pipeline.clustering.feature_files import FeatureFolder, Features, read_range
from pipeline.clustering.index import Index
from pipeline.manifest import NAME, digest_of
from pipeline.storage import Location

SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("modality", pa.string()),  # of the encoder: video or audio
        ("vector", pa.list_(pa.float16(), 512)),  # what the encoder gives, for example 512 numbers
        ("cluster", pa.int32()),  # of encoders that were clustered: the nearest centroid
        ("distance", pa.float32()),  # Euclidean, to that centroid, after the clustering's transform
    ]
)
FORMAT = 1
_CLIP_COLUMNS = ["uri", "clip_id", "start_s", "end_s", "has_video", "has_audio", "split"]
_KINDS = {"video": "pictures", "audio": "sound"}

Clusters = tuple[np.ndarray, np.ndarray]  # int32 [n], -1: none, and float32 [n]


@dataclass(frozen=True)
class WriteVectors:
    """Writes the part of a range of clips, by its number; returns counts."""

    clips: ClipTable
    features: Mapping[str, Location]  # modality → sealed folder of its shards
    lost: Sequence[ray.ObjectRef]  # boxed: the last try of every clip that was rejected
    tries: str  # digest of the passes that `lost` is of
    out: Location
    records: Location
    rows: int  # clips of a range
    half: bool  # whether vectors are float16, or float32
    splits: tuple[str, ...] = ()  # of the clips that were to be embedded; none: all
    clusterings: Mapping[tuple[str, ...], Location] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        return -(-len(self.clips) // self.rows)

    def __call__(self, number: int) -> dict[str, int]:
        start, stop = number * self.rows, min((number + 1) * self.rows, len(self.clips))
        key = self._key(start, stop)
        record = record_of(self.records, number)
        if record is None or record["key"] != key or not self._whole(number, record["bytes"]):
            record = {"key": key, **self._write(number, start, stop)}
            (self.records / f"{part_name(number)}.json").write_json(record)
        return {"done": stop - start, "rejected": record["rejected"]}

    def _write(self, number: int, start: int, stop: int) -> dict[str, Any]:
        clips = self.clips.rows(np.arange(start, stop), _CLIP_COLUMNS)
        found = {m: read_range(folder, start, stop) for m, folder in self.features.items()}
        clusters = self._clusters(found)
        tables = {
            f"vectors/{m}": self._table(m, clips, start, *found[m], clusters.get(m)) for m in found
        }
        present = {m: np.isin(np.arange(start, stop), found[m][0]) for m in found}
        tables["rejects"] = self._rejects(clips, present)
        sizes = {}
        for folder, table in tables.items():
            place = self.out / folder / part_name(number)
            sizes[folder] = write_part(place, table)
        rows = {m: len(index) for m, (index, _) in found.items()}
        return {"rows": rows, "rejected": len(tables["rejects"]), "bytes": sizes}

    def _table(
        self,
        modality: str,
        clips: pa.Table,
        start: int,
        index: np.ndarray,
        values: np.ndarray,
        clusters: Clusters | None,
    ) -> pa.Table:
        rows = clips.select(["uri", "start_s", "end_s"]).take(pa.array(index - start))
        flat = values if self.half else values.astype(np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(flat.reshape(-1)), max(values.shape[1], 1)
        )
        columns = {name: rows[name].combine_chunks() for name in rows.column_names}
        columns |= {"modality": pa.repeat(modality, len(index)), "vector": vectors}
        if clusters is not None:
            labels, distances = clusters
            columns["cluster"] = pa.array(labels, mask=labels < 0)
            columns["distance"] = pa.array(distances, mask=labels < 0)
        return pa.table(columns)

    def _clusters(self, found: Mapping[str, Features]) -> dict[str, Clusters]:
        """Of the modalities that were clustered; what was clustered together is so again."""
        clusters: dict[str, Clusters] = {}
        for modalities, folder in self.clusterings.items():
            clips = reduce(np.intersect1d, (found[m][0] for m in modalities))
            at = {m: np.searchsorted(found[m][0], clips) for m in modalities}
            joined = [found[m][1][at[m]] for m in modalities]
            labels, distances = np.zeros(0, np.int32), np.zeros(0, np.float32)
            if len(clips):
                labels, distances = Index(folder, 0).assign(np.concatenate(joined, axis=1))
            for m in modalities:
                size = len(found[m][0])
                clusters[m] = np.full(size, -1, np.int32), np.zeros(size, np.float32)
                clusters[m][0][at[m]], clusters[m][1][at[m]] = labels, distances
        return clusters

    def _rejects(self, clips: pa.Table, present: Mapping[str, np.ndarray]) -> pa.Table:
        """Of clips that lack a vector: why, in the order of the clips."""
        wanted = np.ones(len(clips), bool)
        if self.splits:
            chosen = pa.array(self.splits, pa.string())
            wanted = pc.is_in(clips["split"], value_set=chosen).to_numpy()
        has = {m: clips[f"has_{m}"].to_numpy() for m in present}
        none = wanted & ~np.logical_or.reduce(list(has.values()))
        lacks = np.logical_or.reduce([has[m] & ~present[m] for m in present]) & wanted
        what = " and ".join(_KINDS[m] for m in present)
        absent = clips.filter(pa.array(none)).select(["uri", "clip_id"])
        rows = {name: absent[name] for name in absent.column_names}
        rows |= {
            "stage": pa.repeat("embed", len(absent)),
            "modality": pa.nulls(len(absent), pa.string()),
            "reason": pa.repeat(Reason.NO_STREAMS.value, len(absent)),
            "detail": pa.repeat(f"it has no {what}, for which the encoder is", len(absent)),
            "attempt": pa.repeat(pa.scalar(1, pa.int32()), len(absent)),
        }
        lost = ray.get(self.lost[0])
        ids = clips["clip_id"].filter(pa.array(lacks))
        lost = lost.filter(pc.is_in(lost["clip_id"], value_set=ids.combine_chunks()))
        both = pa.concat_tables([pa.table(rows).select(lost.column_names).cast(lost.schema), lost])
        order = pc.index_in(both["clip_id"], value_set=clips["clip_id"].combine_chunks())
        both = both.append_column("order", order)
        by = [("order", "ascending"), ("modality", "ascending")]
        return both.sort_by(by).drop_columns(["order"])

    def _key(self, start: int, stop: int) -> str:
        """Digest of all that the part depends on but the clips, which never change."""
        notes: list[Any] = [FORMAT, self.half, self.splits, self.tries]
        notes += features_of(self.features, start, stop)
        notes += [digest_of((f / NAME).read_bytes()) for f in self.clusterings.values()]
        return digest_of(json.dumps(notes).encode())

    def _whole(self, number: int, sizes: Mapping[str, int]) -> bool:
        return all(
            (self.out / folder / part_name(number)).info().size == (size or None)
            for folder, size in sizes.items()
        )


def features_of(features: Mapping[str, Location], start: int, stop: int) -> list[Any]:
    """What a range of clips has for features: the encoders' digests, and those of its shards."""
    found: list[Any] = [start, stop]
    for modality, folder in features.items():
        manifest = FeatureFolder(folder).manifest
        assert manifest is not None
        within = [
            [name, entry.digest]
            for name, entry in sorted(manifest.files.items())
            if entry.notes["last"] >= start and entry.notes["first"] < stop
        ]
        found += [modality, manifest.made_of["weights"], within]
    return found


def part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def record_of(records: Location, number: int) -> dict[str, Any] | None:
    """Of a part: ``key``, ``rows`` by modality, ``rejected``, ``bytes`` by folder."""
    try:
        found: dict[str, Any] = (records / f"{part_name(number)}.json").read_json()
    except (FileNotFoundError, ValueError):
        return None
    return found if {"key", "rows", "rejected", "bytes"} <= found.keys() else None


def write_part(place: Location, table: pa.Table) -> int:
    """Write a part of the table, or remove it where there are no rows; returns its bytes."""
    if not len(table):
        place.delete()
        return 0
    sink = io.BytesIO()
    texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
    pq.write_table(table, sink, compression="zstd", use_dictionary=texts, write_page_checksum=True)
    place.write_bytes(sink.getbuffer())
    return len(sink.getbuffer())


def last_tries(folder: Location) -> pa.Table:
    """`rejects.SCHEMA`: of each clip and modality that passes rejected, the last try."""
    tables = [place.read_table() for place in folder.files(".parquet")]
    found = pa.concat_tables([rejects.SCHEMA.empty_table(), *tables]).combine_chunks()
    found = found.sort_by([("attempt", "ascending"), ("clip_id", "ascending")])
    numbered = found.append_column("row", pa.array(np.arange(len(found))))
    last = numbered.group_by(["clip_id", "modality"]).aggregate([("row", "max")])["row_max"]
    return found.take(pa.array(np.sort(last.to_numpy())))
