"""Files of dense vectors, one a media file, as tools of temporal localisation read them.

    files/<modality>/<path of the media file below their common folder>.npz

The layout is the one in which ActionFormer (Zhang et al. 2022) reads EPIC-Kitchens: ``feats``
[T, d], of which row n is of the window that begins ``n * stride`` frames after the file's clock and
is ``num_frames`` long. Other keys are for people and for configurations.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.table import ClipTable
from pipeline.clustering.feature_files import read_range
from pipeline.config import Config
from pipeline.manifest import digest_of
from pipeline.storage import Location
from pipeline.vectors.vector_table import features_of

FORMAT = 1
_ROWS = 4096  # clips of a task, at least but for the last: whole files
_COLUMNS = ["uri", "start_s", "end_s", "fps", "has_video", "has_audio"]


@dataclass(frozen=True)
class WriteFiles:
    """Writes the files of a stretch of the clips table, by its number; returns counts.

    A record in scratch says what a stretch was made of, so that it is not made again.
    """

    clips: ClipTable
    bounds: Sequence[int]  # clip indices between the stretches; each begins with a file
    folder: str  # above all media files, with its slash
    clashing: frozenset[int]  # `stem_key` of names that differ by their suffix alone
    features: Mapping[str, Location]
    out: Location
    records: Location
    config: Config

    @classmethod
    def of(
        cls,
        clips: ClipTable,
        features: Mapping[str, Location],
        out: Location,
        records: Location,
        config: Config,
    ) -> WriteFiles:
        """For all files of a clips table of dense windows."""
        parts = clips.of_each_part(["uri"], _files_of)
        starts = [at + part.starts for at, part in zip(clips.offsets.tolist(), parts)]
        whole = np.concatenate(starts)
        keys, times = np.unique(np.concatenate([part.keys for part in parts]), return_counts=True)
        edges = [part.first for part in parts] + [part.last for part in parts]
        # By characters: the parts of a URI are no path.
        folder = os.path.commonprefix(edges).rpartition("/")[0] + "/"  # noqa: RUF071
        clashing = frozenset(keys[times > 1].tolist())
        bounds = _stretches(whole, len(clips))
        return cls(clips, bounds, folder, clashing, features, out, records, config)

    def __call__(self, number: int) -> dict[str, int]:
        start, stop = self.bounds[number], self.bounds[number + 1]
        place, index = self.records / f"{number:06d}.json", self.config.index
        times = [FORMAT, index.every_s, index.window_s]
        key = digest_of(json.dumps([*times, *features_of(self.features, start, stop)]).encode())
        with suppress(FileNotFoundError, ValueError, LookupError, TypeError):
            done = place.read_json()
            if done["key"] == key and self._whole(done["bytes"]):
                return {"done": stop - start, "files": len(done["bytes"])}
        sizes = self._write(start, stop)
        place.write_json({"key": key, "bytes": sizes})
        return {"done": stop - start, "files": len(sizes)}

    def _whole(self, sizes: Mapping[str, int]) -> bool:
        return all((self.out / name).info().size == size for name, size in sizes.items())

    def _write(self, start: int, stop: int) -> dict[str, int]:
        """The bytes of each file, by its path below `out`."""
        rows = self.clips.rows(np.arange(start, stop), _COLUMNS)
        found = {m: read_range(folder, start, stop) for m, folder in self.features.items()}
        sizes = {}
        edges = [*_files_of(rows.select(["uri"])).starts.tolist(), len(rows)]
        for begin, end in pairwise(edges):
            file = rows.slice(begin, end - begin)
            for modality, (index, values) in found.items():
                first, last = np.searchsorted(index, [start + begin, start + end])
                if first < last:
                    places = index[first:last] - start - begin
                    arrays = self._arrays(file, places, values[first:last])
                    sink = io.BytesIO()
                    np.savez(sink, **arrays)
                    name = f"{modality}/{self._name(file['uri'][0].as_py())}"
                    (self.out / name).write_bytes(sink.getbuffer())
                    sizes[name] = len(sink.getbuffer())
        return sizes

    def _arrays(self, file: pa.Table, places: np.ndarray, values: np.ndarray) -> dict[str, Any]:
        """What a file's ``.npz`` holds; `places` in `file` of the vectors."""
        index, starts = self.config.index, file["start_s"].to_numpy()
        row = np.rint(starts / index.every_s).astype(np.int64)
        feats = np.zeros((int(row.max()) + 1, values.shape[1]), np.float32)
        present = np.zeros(len(feats), bool)
        feats[row[places]], present[row[places]] = values, True
        fps = float(file["fps"][0].as_py() or 0) or self.config.clips.video.fps
        return {
            "feats": feats,
            "present": present,
            "fps": np.float64(fps),
            "stride": np.float64(index.every_s * fps),
            "num_frames": np.float64(index.window_s * fps),
            "duration": np.float64(pc.max(file["end_s"]).as_py()),
        }

    def _name(self, uri: str) -> str:
        path = Location.named(uri).uri
        stem = _stem(path)
        below = (path if stem_key(stem) in self.clashing else stem).removeprefix(self.folder)
        # A key of a bucket may hold what leads out of a folder.
        safe = ["_" if part in ("", ".", "..") else part for part in below.split("/")]
        return f"{'/'.join(safe)}.npz"


@dataclass(frozen=True)
class _Files:
    """The files of a part of the clips table."""

    starts: np.ndarray  # int64, rows at which a file's clips begin
    keys: np.ndarray  # uint64, `stem_key` of each
    first: str  # path, the lowest of all
    last: str  # and the highest


def _files_of(table: pa.Table) -> _Files:
    uris = table["uri"].combine_chunks()
    uris = uris.chunk(0) if isinstance(uris, pa.ChunkedArray) else uris
    differs = pc.not_equal(uris.slice(1), uris.slice(0, len(uris) - 1))
    starts = np.append(0, np.flatnonzero(differs.to_numpy(zero_copy_only=False)) + 1)
    paths = [Location.named(uri).uri for uri in uris.take(pa.array(starts)).to_pylist()]
    keys = np.array([stem_key(_stem(path)) for path in paths], np.uint64)
    return _Files(starts.astype(np.int64), keys, min(paths), max(paths))


def _stretches(starts: np.ndarray, clips: int) -> list[int]:
    """Where stretches of whole files end, from 0 on."""

    def ends() -> Iterator[int]:
        at = 0
        while at < clips:
            yield at
            place = int(np.searchsorted(starts, at + _ROWS))
            at = int(starts[place]) if place < len(starts) else clips

    return [*ends(), clips]


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def stem_key(stem: str) -> int:
    """The same in every process."""
    digest = hashlib.blake2b(stem.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
