"""Files that a job reads from people and from runs: a seed of each kind, and its reader."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from pipeline import settings
from pipeline.clips import rejects, table
from pipeline.clips.fill import check_settings
from pipeline.clips.known import KnownInputs
from pipeline.clips.listing import list_media
from pipeline.clips.shard_index import SCHEMA, DamagedShard, ShardIndex
from pipeline.clips.table import ClipTable, append
from pipeline.clustering.labels import read_labels
from pipeline.clustering.vector_files import as_features
from pipeline.config import Config
from pipeline.embedding.shards import as_feature_array, read_features
from pipeline.encoders.architectures import new_encoder
from pipeline.encoders.weights import read_tensors, save_weights
from pipeline.errors import UserError
from pipeline.exporting.loading import load_encoder
from pipeline.learning.checkpoint import Checkpoints, TrainingState
from pipeline.manifest import NAME, Manifest, seal_written
from pipeline.run import Run
from pipeline.storage import Location, as_parquet

N = 12  # rows of the tables


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: its name in a folder that `prepare` has filled; the seed is what it holds.
        read: of the folder, as a job reads it; the result is compared where `is_sealed`: a file
            that something vouches for is either read as it was written, or refused.
    """

    file: str
    prepare: Callable[[Location], None]
    read: Callable[[Location], Any]
    is_sealed: bool = False
    is_text: bool = False


def _wrote(name: str, data: bytes) -> Callable[[Location], None]:
    return lambda folder: (folder / name).write_bytes(data)


def _clips() -> pa.Table:
    columns: dict[str, Any] = {}
    for name, kind in zip(table.SCHEMA.names, table.SCHEMA.types):
        columns[name] = pa.nulls(N, kind)
    columns |= {
        "clip_index": pa.array(range(N), pa.int64()),
        "clip_id": pa.array([f"{n:016x}" for n in range(N)]),
        "uri": pa.array([f"/media/{n}.mp4" for n in range(N)]),
        "start_s": pa.array([0.0] * N),
        "end_s": pa.array([2.5] * N),
        "has_video": pa.array([True] * N),
        "has_audio": pa.array([True] * N),
    }
    return pa.table(columns, schema=table.SCHEMA)


def _read_clips(folder: Location) -> Any:
    found = ClipTable.open(folder / "clips")
    return found.identity(), found.rows(np.arange(len(found)), table.SCHEMA.names[:5]).to_pylist()


def _sealed_features(folder: Location) -> None:
    features = as_feature_array(np.arange(4.0 * N).reshape(N, 4), np.ones(N, bool))
    place = folder / "features"
    index = pa.array(range(N), pa.int64())
    (place / "part.parquet").write_table(pa.table({"clip_index": index, "features": features}))
    seal_written(place, ["part.parquet"])


def _sealed_labels(folder: Location) -> None:
    columns = {"label": pa.array(range(N), pa.int32()), "distance": pa.array([0.5] * N)}
    (folder / "labels" / "part-00000.parquet").write_table(pa.table(columns))
    seal_written(folder, ["labels/part-00000.parquet"])


def _shard(folder: Location) -> None:
    columns: dict[str, Any] = {name: [0] * N for name in ("offset", "bytes", "origin_s")}
    columns |= {"clip_id": [f"{n:016x}" for n in range(N)], "checksum": range(N)}
    columns["reason"] = [None] * N
    clips = pa.table(
        {name: pa.array(columns[name], t) for name, t in zip(SCHEMA.names, SCHEMA.types)}
    )
    ShardIndex("0123456789abcdef", "0123456789abcdef-1.tar", 9, clips).write(folder)


def _read_shard(folder: Location) -> Any:
    try:
        found = ShardIndex.read(folder, "0123456789abcdef", N)
    except DamagedShard as damaged:  # `fill` makes the shard again
        raise UserError(str(damaged)) from None
    return found.tar, found.tar_bytes, found.clips.to_pylist()


def _run(folder: Location) -> None:
    (folder / "config.yaml").write_text(Config(run=str(folder)).to_yaml())
    (folder / "LATEST").write_text("0\n")
    (folder / "rounds" / "0000" / "metrics.json").write_json({"round": 0})
    seal_written(folder / "rounds" / "0000", ["metrics.json"])


def _checkpoint(folder: Location) -> None:
    state = TrainingState("schedule", 3, [{"loss": 1.0}], tensors={"w": torch.ones(3)})
    checkpoints = Checkpoints(folder)
    checkpoints.save(state)
    checkpoints.finish()


def _export(folder: Location) -> None:
    facts = {"modality": "audio", "architecture": "resnet_small", "batchnorm_eps": 1e-5}
    (folder / "config.json").write_json(facts)
    save_weights(new_encoder("audio", "resnet_small"), folder / "model.safetensors")


def _torch(**how: Any) -> bytes:
    sink = io.BytesIO()
    torch.save({"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}, sink, **how)
    return sink.getvalue()


def _npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.arange(4.0 * N, dtype=np.float32).reshape(N, 4))
    return sink.getvalue()


def _parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


_WEIGHTS = save({"audio.a.weight": torch.ones(3, 4), "audio.a.bias": torch.ones(3)})
_CSV = "uri,start_s,end_s,label\n" + "".join(f"{n}.mp4,{n},{n}.5,cat\n" for n in range(N))
_ROWS = {"uri": [f"{n}.mp4" for n in range(N)], "start_s": [0.0] * N, "end_s": [1.0] * N}
_REJECTS = pa.table(
    [["/x.mp4"], [None], ["probe"], [None], ["missing"], ["gone"], [1]], schema=rejects.SCHEMA
)


def _listed(name: str) -> Callable[[Location], Any]:
    return lambda folder: list_media(str(folder / name)).rows.to_pylist()


KINDS = {
    "settings": Kind(
        "c.yaml",
        _wrote("c.yaml", Config().to_yaml().encode()),
        lambda folder: settings.load([str(folder / "c.yaml")]).to_yaml(),
        is_text=True,
    ),
    "config.yaml of a run": Kind(
        "config.yaml", _run, lambda folder: Run.existing(str(folder)).last_round(), is_text=True
    ),
    "LATEST": Kind(
        "LATEST", _run, lambda folder: Run.existing(str(folder)).last_round(), True, True
    ),
    "metrics.json": Kind(
        "rounds/0000/metrics.json",
        _run,
        lambda folder: Run.existing(str(folder)).finished_round().metrics.read_json(),
        is_text=True,
    ),
    "seal of a round": Kind(
        f"rounds/0000/{NAME}",
        _run,
        lambda folder: vars(Manifest.whole(folder / "rounds" / "0000")),
        is_text=True,
    ),
    "cuts, CSV": Kind("c.csv", _wrote("c.csv", _CSV.encode()), _listed("c.csv"), is_text=True),
    "cuts, CSV.gz": Kind(
        "c.csv.gz", _wrote("c.csv.gz", gzip.compress(_CSV.encode())), _listed("c.csv.gz")
    ),
    "cuts, Parquet": Kind("c.parquet", _wrote("c.parquet", _parquet(_ROWS)), _listed("c.parquet")),
    "clips table": Kind(
        "clips/part-000000.parquet",
        _wrote("clips/part-000000.parquet", bytes(as_parquet(_clips()))),
        _read_clips,
    ),
    "clips table, sealed": Kind(
        "clips/part-000000.parquet",
        lambda folder: append(folder / "clips", [_clips()]) and None,
        _read_clips,
        is_sealed=True,
    ),
    "rejects table": Kind(
        "r.parquet",
        _wrote("r.parquet", bytes(as_parquet(_REJECTS))),
        lambda folder: KnownInputs(folder / "clips", folder / "r.parquet", False).num_clips,
    ),
    "features": Kind(
        "features/part.parquet",
        _sealed_features,
        lambda folder: [a.tolist() for a in read_features(folder / "features", N)],
        is_sealed=True,
    ),
    "labels": Kind(
        "labels/part-00000.parquet",
        _sealed_labels,
        lambda folder: read_labels(folder, N).tolist(),
        is_sealed=True,
    ),
    "clip store, index": Kind("0123456789abcdef.parquet", _shard, _read_shard, is_sealed=True),
    "clip store, settings": Kind(
        "store.json",
        lambda folder: check_settings(folder, Config()) and None,
        lambda folder: check_settings(folder, Config()),
        is_text=True,
    ),
    "weights, safetensors": Kind(
        "w.safetensors", _wrote("w.safetensors", _WEIGHTS), lambda f: _shapes(f / "w.safetensors")
    ),
    "weights, torch": Kind("w.pt", _wrote("w.pt", _torch()), lambda f: _shapes(f / "w.pt")),
    "weights, old torch": Kind(
        "w.pth",
        _wrote("w.pth", _torch(_use_new_zipfile_serialization=False)),
        lambda f: _shapes(f / "w.pth"),
    ),
    "checkpoint": Kind(
        "checkpoint.pt", _checkpoint, lambda folder: str(TrainingState.of(folder)), is_sealed=False
    ),
    "exported config.json": Kind(
        "config.json",
        _export,
        lambda folder: load_encoder(str(folder)) and None,
        is_text=True,
    ),
    "vectors, npy": Kind(
        "v.npy", _wrote("v.npy", _npy()), lambda f: as_features(f / "v.npy", "", f / "out")[1]
    ),
    "vectors, Parquet": Kind(
        "v.parquet",
        _wrote("v.parquet", _parquet({"v": [[0.5, 1.5]] * N})),
        lambda f: as_features(f / "v.parquet", "v", f / "out")[1],
    ),
}


def _shapes(place: Location) -> Any:
    return {name: list(tensor.shape) for name, tensor in read_tensors(place).items()}
