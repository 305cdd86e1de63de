"""The clips table: one row a clip, dense `clip_index`, in Parquet parts never renumbered."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipeline.clips.store import ClipStore
from pipeline.errors import Malformed, UserError, parsing
from pipeline.manifest import Damaged, Entry, Manifest, digest_of, seal
from pipeline.storage import Location, as_parquet, check_claims, from_parquet

_Result = TypeVar("_Result")

SCHEMA_VERSION = 2

SCHEMA = pa.schema(
    [
        ("clip_index", pa.int64()),  # dense 0..N-1: the position in every label and feature array
        ("clip_id", pa.string()),  # stable: a hash of uri and of the cut that was asked for
        ("uri", pa.string()),
        ("start_s", pa.float64()),  # the window a clip may be sampled in
        ("end_s", pa.float64()),
        ("fps", pa.float32()),
        ("width", pa.int32()),  # upright, after rotation
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("has_video", pa.bool_()),
        ("has_audio", pa.bool_()),
        ("audio_rate", pa.int32()),
        ("channels", pa.int32()),
        ("size", pa.int64()),  # of the file when it was indexed, in bytes; null: not known
        ("etag", pa.string()),  # of the object when it was indexed; null on disks
        ("pieces", pa.int16()),  # clocks that follow each other in the file, usually 1
        ("head_bytes", pa.int32()),  # in front of a large remote file, that opening reads
        ("tail_bytes", pa.int32()),  # and at its end
        ("parts_kib", pa.list_(pa.int32())),  # where parts of the window begin, then where they end
        ("label", pa.string()),  # nullable, never seen by pretraining
        ("split", pa.string()),  # nullable
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

# Published to all nodes.
DECODING_COLUMNS = [
    *("uri", "clip_id", "start_s", "end_s", "has_video", "has_audio", "size", "etag", "pieces"),
    *("head_bytes", "tail_bytes", "parts_kib"),
]
_REPEATED = ("uri", "etag")  # of a file: held once, however many clips it has


def clip_id(uri: str, start_s: float, end_s: float) -> str:
    """16 hexadecimal digits that depend on the file's URI and on the cut, in milliseconds."""
    cut = f"{uri}\n{round(start_s * 1000)}\n{round(end_s * 1000)}"
    return hashlib.blake2b(cut.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class ClipTable:
    """A clips table on storage."""

    location: Location  # folder of ``part-*.parquet``
    parts: tuple[str, ...]  # file names in index order
    offsets: np.ndarray  # int64 [parts + 1], first clip index of each part, and N
    manifest: Manifest | None = field(repr=False, default=None)  # of tables that `append` made

    @classmethod
    def open(cls, location: Location) -> ClipTable:
        """The table in a folder; of one that `append` made, the parts that it finished.

        Raises:
            UserError: there is no table, it is empty, damaged or of another schema version.
        """
        manifest = _whole(location)
        if manifest is not None:
            version = manifest.made_of["schema_version"]
            _check_version(version, location)
            lengths = [entry.notes["rows"] for entry in manifest.files.values()]
            return cls(location, tuple(manifest.files), _offsets(lengths), manifest)
        parts = tuple(place.name for place in location.files(".parquet"))
        if not parts:
            raise UserError(
                f"there is no clips table in {location}; make one with "
                f"`python jobs/index.py MEDIA {str(location).rsplit('/', 1)[0]}`"
            )
        lengths = []
        for part in parts:
            with (
                parsing(location / part, "a clips table"),
                location.fs.open_input_file((location / part).path) as stream,
            ):
                footer = pq.read_metadata(stream)
                check_claims(footer, stream.size())
            version = (footer.metadata or {}).get(b"schema_version", b"?").decode()
            _check_version(version, location / part)
            lengths.append(footer.num_rows)
        return cls(location, parts, _offsets(lengths))

    def identity(self, num_clips: int | None = None) -> str | None:
        """Digest of the ids of the first `num_clips` clips, by default of all.

        None where the table's parts do not end there: then it has never had so many clips.
        """
        number = int(np.searchsorted(self.offsets, len(self) if num_clips is None else num_clips))
        if number == len(self.offsets) or num_clips not in (None, self.offsets[number]):
            return None
        if self.manifest is not None:
            entries = list(self.manifest.files.values())
            ids = [entry.notes["ids"] for entry in entries[:number]]
        else:
            tables = itertools.islice(self.read_parts(["clip_id"]), number)
            ids = [_digest_of_ids(table["clip_id"]) for table in tables]
        return digest_of("".join(ids).encode())

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def read_parts(self, columns: list[str]) -> Iterator[pa.Table]:
        """One table a part, in index order."""
        for part in self.parts:
            yield self._read(part, columns)

    def of_each_part(
        self, columns: list[str], reduce: Callable[[pa.Table], _Result]
    ) -> list[_Result]:
        """What `reduce` makes of these columns of each part, in index order, few held at once."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda part: reduce(self._read(part, columns)), self.parts))

    def column(self, name: str) -> pa.ChunkedArray:
        """One whole column, in index order: for evaluation and small tables."""
        return pa.concat_tables(self.read_parts([name]))[name]

    def files(self) -> np.ndarray | None:
        """int32 [n]: the file of each clip of the first part; None where few files hold several."""
        uris = next(self.read_parts(["uri"]))["uri"].combine_chunks().dictionary_encode()
        return None if 2 * len(uris.dictionary) > len(uris) else uris.indices.to_numpy()

    def in_splits(self, splits: Sequence[str]) -> np.ndarray:
        """bool [N]: clips whose split is one of these; with none of these, all clips."""
        if not splits:
            return np.ones(len(self), bool)
        of_them = pc.is_in(self.column("split"), value_set=pa.array(splits, pa.string()))
        return of_them.to_numpy()

    def count(self, modalities: tuple[str, ...]) -> int:
        """Clips that have at least the rarer of `modalities`."""
        return min(pc.sum(self.column(f"has_{m}")).as_py() or 0 for m in modalities)

    def rows(self, indices: np.ndarray, columns: list[str]) -> pa.Table:
        """Rows of `indices` (int64, any order) from storage; only the parts that hold them."""
        return _gather(self.offsets, indices, lambda n: self._read(self.parts[n], columns))

    def _read(self, part: str, columns: list[str]) -> pa.Table:
        try:
            return (self.location / part).read_table(columns)
        except Malformed:
            if self.manifest is not None:
                _loaded(self.manifest, part)  # says what to do
            raise

    def publish(self) -> PublishedClips:
        """Load the columns that decoding needs into the object store, one object a part.

        The driver puts them: they last as long as it does, and keep no other node from going.
        """

        def put(part: str) -> ray.ObjectRef:
            if self.manifest is None:
                table = (self.location / part).read_table(DECODING_COLUMNS)
            else:
                table = from_parquet(_loaded(self.manifest, part), DECODING_COLUMNS)
            for name in _REPEATED:
                at = table.schema.get_field_index(name)
                table = table.set_column(at, name, table[name].dictionary_encode())
            return ray.put(table.combine_chunks())

        with ThreadPoolExecutor(8) as pool:  # parts that are read at once
            return PublishedClips(self, list(pool.map(put, self.parts)))


@dataclass(frozen=True)
class PublishedClips:
    """The clips table in the object store, read without copying, on nodes that hold it."""

    table: ClipTable  # the same on storage
    refs: list[ray.ObjectRef] = field(repr=False)  # one object a part, with `DECODING_COLUMNS`
    store: ClipStore | None = None  # where decoding looks first

    def __len__(self) -> int:
        return len(self.table)

    def take(self, indices: np.ndarray) -> pa.Table:
        """Rows of `indices` (int64, any order, each in [0, N)), in that order."""
        return _gather(self.table.offsets, indices, lambda number: _held(self.refs[number]))


def _gather(offsets: np.ndarray, indices: np.ndarray, read: Callable[[int], pa.Table]) -> pa.Table:
    """Rows of `indices`, in their order, from the parts that hold them, which `read` gives."""
    part = np.searchsorted(offsets, indices, side="right") - 1
    by_part = np.argsort(part, kind="stable")
    numbers = np.unique(part)
    pieces = [read(number).take(indices[part == number] - offsets[number]) for number in numbers]
    return pa.concat_tables(map(_plain, pieces)).take(np.argsort(by_part))


def _plain(rows: pa.Table) -> pa.Table:
    """Without dictionaries, which would travel whole with every row."""
    plain = {
        field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        for field in rows.schema
    }
    return rows.cast(pa.schema(plain))


def distinct(texts: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """int32 [n] (-1: null), and the distinct texts that it numbers, as they first appear."""
    # One chunk of millions of URIs would be too large for 32-bit offsets; so may be those alone.
    encoded = texts.cast(pa.large_string()).dictionary_encode().chunks
    numbers = [
        np.zeros(0, np.int32),
        *(chunk.indices.fill_null(-1).to_numpy() for chunk in encoded),
    ]
    none = pa.array([], pa.large_string())
    return np.concatenate(numbers), encoded[-1].dictionary if encoded else none


def append(folder: Location, tables: Iterable[pa.Table]) -> int:
    """Append a part for each table of `SCHEMA`'s columns but ``clip_index``; return the clips.

    A part counts once the table's manifest names it.
    """
    manifest = _whole(folder)
    if manifest is None and any(folder.files(".parquet")):
        files = {}
        for name in ClipTable.open(folder).parts:
            whole = (folder / name).read_bytes()
            files[name] = _entry(whole, from_parquet(whole, ["clip_id"]))
    else:
        files = {} if manifest is None else dict(manifest.files)
    first = start = sum(entry.notes["rows"] for entry in files.values())
    for table in tables:
        indices = pa.array(np.arange(start, start + len(table)), pa.int64())
        part = pa.table([indices, *table.select(SCHEMA.names[1:]).columns], schema=SCHEMA)
        name, data = f"part-{len(files):06d}.parquet", as_parquet(part)
        (folder / name).write_bytes(data)
        files[name] = _entry(data, part)
        seal(folder, files, schema_version=SCHEMA_VERSION)
        start += len(table)
    return start - first


def _entry(data: bytes | memoryview, part: pa.Table) -> Entry:
    return Entry.of(data, rows=len(part), ids=_digest_of_ids(part["clip_id"]))


def _digest_of_ids(ids: pa.ChunkedArray) -> str:
    return digest_of("\n".join(ids.to_pylist()).encode())


def _whole(folder: Location) -> Manifest | None:
    try:
        return Manifest.whole(folder)
    except Damaged as damaged:
        raise _irreplaceable(damaged) from None


def _loaded(manifest: Manifest, part: str) -> bytes:
    try:
        return manifest.load(part)
    except Damaged as damaged:
        raise _irreplaceable(damaged) from None


def _irreplaceable(damaged: Damaged) -> UserError:
    """Labels and features count on the table's order, which indexing again might not give."""
    return UserError(
        f"the clips table is damaged: {damaged.place}: {damaged.what}. Put back a copy of this "
        "file, or index the media into a new run directory"
    )


def _check_version(version: object, place: Location) -> None:
    if str(version) != str(SCHEMA_VERSION):
        raise UserError(
            f"{place} has clips schema {version}, this release reads {SCHEMA_VERSION}; index the "
            "media again"
        )


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


_held = lru_cache(maxsize=4096)(ray.get)  # tables, whose columns are views of the object store
