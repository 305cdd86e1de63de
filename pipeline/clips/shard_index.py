"""The index of a clip store's shard: where its clips lie, named and sealed by their content.

A shard's name is a digest of its clips and of the settings that shaped them, so a shard of other
clips has another name, whoever made it and wherever they stand in a clips table. The name of the
tar ends in a checksum of its bytes: an index never points into a tar that another run wrote.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage import Location

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("offset", pa.int64()),  # in the tar
        ("bytes", pa.int32()),  # 0: could not be stored
        ("origin_s", pa.float64()),  # media time of the stored clip's time 0
        ("checksum", pa.uint32()),  # CRC-32 of the stored clip
        ("reason", pa.string()),  # why it could not be stored; null where it is
    ]
)
COLUMNS = ["clip_id", "start_s", "end_s", "size", "etag"]  # of the clips table: what decides
_SEAL = b"shard"  # in the metadata of an index


class DamagedShard(Exception):
    """A shard that is not as it was written; it says how."""


@dataclass(frozen=True)
class ShardIndex:
    """A shard's clips, in the order of the clips table."""

    name: str
    tar: str  # file name
    tar_bytes: int
    clips: pa.Table  # `SCHEMA`

    def write(self, place: Location) -> None:
        """Make the shard count: after its tar is there."""
        seal = [self.name, self.tar, self.tar_bytes, self._digest()]
        sealed = self.clips.replace_schema_metadata({_SEAL: json.dumps(seal)})
        (place / f"{self.name}.parquet").write_table(sealed)

    @classmethod
    def read(cls, place: Location, name: str, num_clips: int) -> ShardIndex:
        """Raises:
        FileNotFoundError: there is none.
        DamagedShard: it is not whole, or that of another shard.
        """
        data = (place / f"{name}.parquet").read_bytes()
        try:
            table = pq.read_table(io.BytesIO(data), schema=SCHEMA)
            named, tar, tar_bytes, digest = json.loads(
                pq.read_schema(io.BytesIO(data)).metadata[_SEAL]
            )
            found = cls(named, tar, tar_bytes, table)
            whole = (named, len(table), found._digest()) == (name, num_clips, digest)
        except Exception as error:  # whatever Arrow makes of such bytes
            raise DamagedShard(f"{name}.parquet cannot be read: {error}") from error
        if not whole:
            raise DamagedShard(f"{name}.parquet is not as it was written")
        return found

    def _digest(self) -> str:
        digest = hashlib.blake2b(json.dumps([self.tar, self.tar_bytes]).encode(), digest_size=8)
        for name, kind in zip(SCHEMA.names, SCHEMA.types):
            column = self.clips[name]
            if pa.types.is_string(kind):
                digest.update("\n".join(pc.fill_null(column, "").to_pylist()).encode())
            else:
                digest.update(column.to_numpy().tobytes())
        return digest.hexdigest()


def tar_name(name: str, data: memoryview) -> str:
    return f"{name}-{checksum(data):08x}.tar"


def checksum(data: bytes | memoryview) -> int:
    return zlib.crc32(data)


def shard_names(
    parts: Iterator[pa.Table], settings: Mapping[str, Any], clips_per_shard: int
) -> list[str]:
    """16 hexadecimal digits a shard, of the clips in index order; `parts` have `COLUMNS`."""
    shaped = json.dumps(settings, sort_keys=True).encode()
    names: list[str] = []
    held: list[str] = []
    for part in parts:
        held += _texts(part)
        whole = len(held) // clips_per_shard * clips_per_shard
        names += [
            _name(held[start : start + clips_per_shard], shaped)
            for start in range(0, whole, clips_per_shard)
        ]
        held = held[whole:]
    return [*names, _name(held, shaped)] if held else names


def _name(texts: list[str], shaped: bytes) -> str:
    return hashlib.blake2b("\n".join(texts).encode() + shaped, digest_size=8).hexdigest()


def _texts(clips: pa.Table) -> list[str]:
    """What decides the content of each stored clip, beside the settings."""
    columns = [clips["clip_id"]]
    for name in ("start_s", "end_s"):  # every bit of them
        bits = clips[name].to_numpy().view(np.int64)
        columns.append(pa.chunked_array([pa.array(bits)]).cast(pa.string()))
    columns += [pc.fill_null(clips[name].cast(pa.string()), "") for name in ("size", "etag")]
    return pc.binary_join_element_wise(*columns, " ").to_pylist()
