"""Places that hold data: local folders and object stores behind one small class.

Everything durable goes through `Location`, so that nothing else needs to know whether a run
lives on a disk or in a bucket. No rename is assumed: on an object store an object appears whole
when its upload is complete, on a disk a file is written beside its place and moved into it.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.addresses import joined, printable, split_address
from pipeline.errors import UserError, parsing
from pipeline.patience import patiently
from pipeline.s3_objects import S3Objects, needs_s3_objects

_Result = TypeVar("_Result")
_LOCAL = pyarrow.fs.LocalFileSystem()
_TRIES, _FEW_TRIES = 10, 3  # of a request to S3; few where `patiently` tries again, and tells it
# More than any table of real media has in a byte of its file.
_ROWS_A_BYTE, _UNPACKED = 100, 1000
_PIECE = 16 * 2**20  # bytes of a large file that are sent at once
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # what `write_bytes` has not moved into place


@lru_cache(maxsize=128)
def _file_system(root: str, attempts: int) -> tuple[pyarrow.fs.FileSystem, str]:
    """File system and base path of a URI; one connection pool a process and place."""
    try:
        fs, base = pyarrow.fs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"cannot open {root!r} as a storage place: {error}") from error
    if isinstance(fs, pyarrow.fs.S3FileSystem):
        _, (options,) = fs.__reduce__()
        # Tries, ever longer apart, and time for slow answers; a URI cannot ask for either.
        tries = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
        options |= {"retry_strategy": tries, "connect_timeout": 10.0, "request_timeout": 20.0}
        fs = pyarrow.fs.S3FileSystem(**options)
    return fs, base


@dataclass(frozen=True)
class Location:
    """A folder or file on any file system pyarrow knows: a path, ``s3://``, ``gs://``, ``hdfs://``…

    Picklable: only the URI travels, each process opens its own connection.
    """

    uri: str  # absolute, without a trailing slash; a local path is ``/absolute/path``
    query: str = field(default="", repr=False)  # connection options: ``endpoint_override=…``

    @classmethod
    def of(cls, place: str | os.PathLike[str] | Location) -> Location:
        """From a local path (made absolute) or a URI.

        Raises:
            UserError: the URI cannot be opened, or carries credentials.
        """
        if isinstance(place, Location):
            return place
        location = cls.named(os.fspath(place))
        location.fs  # noqa: B018  (opens it now, so that what cannot be opened is reported here)
        return location

    @classmethod
    def named(cls, place: str) -> Location:
        """`of`, without opening it: for the many rows of a table."""
        return cls(*split_address(place))

    @property
    def is_local(self) -> bool:
        return self.uri.startswith("/")

    @property
    def name(self) -> str:
        return self.uri.rsplit("/", 1)[-1]

    @property
    def fs(self) -> pyarrow.fs.FileSystem:
        """For libraries that take one; `patiently` waits longer."""
        return self._opened()[0]

    @property
    def path(self) -> str:
        """The path inside `fs`."""
        return self._opened()[1]

    def _opened(self, tries: int = _TRIES) -> tuple[pyarrow.fs.FileSystem, str]:
        if self.is_local:
            return _LOCAL, self.uri
        scheme, _, rest = self.uri.partition("://")
        host, _, key = rest.partition("/")
        options = self._options()
        if scheme == "s3" and needs_s3_objects(key, options):
            return S3Objects.file_system(options), f"{host}/{key}"
        root = f"{scheme}://{host}" + (f"?{options}" if options else "")
        fs, base = _file_system(root, tries)
        return fs, f"{base.rstrip('/')}/{key}" if key else base.rstrip("/")

    def _options(self) -> str:
        """Of the connection, as `query` has them."""
        # The environment's endpoint serves a URI that names none (MinIO, Ceph, tests).
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint or not self.uri.startswith("s3://") or "endpoint_override" in self.query:
            return self.query
        protocol, _, server = endpoint.partition("://")
        found = urlencode({"endpoint_override": server, "scheme": protocol})
        return f"{self.query}&{found}" if self.query else found

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.uri}/{name}", self.query)

    def __str__(self) -> str:
        return printable(self.uri)

    @property
    def full_uri(self) -> str:
        """Address and connection options: `Location.of(place.full_uri) == place`."""
        return joined(self.uri, self.query)

    def patiently(self, work: Callable[[pyarrow.fs.FileSystem, str], _Result]) -> _Result:
        """`work` of a file system and a path in it; storage that is away is waited for."""
        if self.is_local:
            return work(_LOCAL, self.uri)
        return patiently(str(self), lambda: work(*self._opened(_FEW_TRIES)))

    def exists(self) -> bool:
        """Raises as all methods do: StorageAway or StorageRefused of remote storage, OSError."""
        return self.info().type != pyarrow.fs.FileType.NotFound

    def info(self) -> pyarrow.fs.FileInfo:
        return self.patiently(lambda fs, path: fs.get_file_info(path))

    def read_bytes(self) -> bytes:
        return self.patiently(_read)

    def read_json(self) -> Any:
        """Raises Malformed if it is no JSON."""
        data = self.read_bytes()
        with parsing(self, "JSON"):
            return json.loads(data)

    def read_table(self, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file or some of its columns, whose checksums must fit where it has some.

        Raises:
            Malformed: it is no whole Parquet file, or claims more than a file of its size holds.
        """

        def read(fs: pyarrow.fs.FileSystem, path: str) -> pa.Table:
            with fs.open_input_file(path) as stream:
                return _table(stream, columns)

        with parsing(self, "a Parquet file"):
            return self.patiently(read)

    def children(self, recursive: bool = False) -> list[pyarrow.fs.FileInfo]:
        """Files and folders below, sorted by path; empty where there is no such folder."""

        def listed(fs: pyarrow.fs.FileSystem, path: str) -> list[pyarrow.fs.FileInfo]:
            selector = pyarrow.fs.FileSelector(path, recursive=recursive, allow_not_found=True)
            return sorted(fs.get_file_info(selector), key=lambda info: info.path)

        return self.patiently(listed)

    def pages(self) -> Iterator[list[str]]:
        """Paths in `fs` of all files below, some at a time and in any order.

        Keys of S3 come by thousands where boto3 is there. Else pyarrow holds all of them, 0.3 GB
        for a million.
        """
        objects = S3Objects.lister(self._options()) if self.uri.startswith("s3://") else None
        if objects is None:
            yield [info.path for info in self.children(recursive=True) if info.is_file]
            return
        token, place = "", self.uri.partition("://")[2]
        while True:
            names, token = patiently(str(self), partial(objects.page, place, token))
            yield names
            if not token:
                return

    def files(self, suffix: str = "") -> Iterator[Location]:
        """Direct children that are files and end in ``suffix``, in order of name."""
        for info in self.children():
            if info.is_file and info.base_name.endswith(suffix):
                yield self / info.base_name

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Write whole or not at all, also when the process dies on the way.

        Raises:
            OSError: as storage reports; a full disk's, too, names the file.
        """
        if not self.is_local:
            self.patiently(partial(_put, data))
            return
        try:
            self._write(data)
        except OSError as error:
            error.filename = error.filename or str(self)
            raise

    def _write(self, data: bytes | memoryview) -> None:
        with self._beside() as file:
            file.write(data)

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """`write_bytes` of what the ``with`` block puts into a file, for what memory cannot hold.

        If the block raises, nothing is written. What goes to remote storage lies in the temporary
        folder until then.
        """
        if self.is_local:
            with self._beside() as file:
                yield file
            return
        with tempfile.TemporaryFile() as file:
            yield file
            self.patiently(partial(_put_file, file))

    @contextmanager
    def _beside(self) -> Iterator[IO[bytes]]:
        """A file that moves into this place when the block ends."""
        os.makedirs(os.path.dirname(self.uri), exist_ok=True)
        beside = Path(f"{self.uri}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.uri)
        finally:
            beside.unlink(missing_ok=True)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def write_json(self, value: Any) -> None:
        self.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def write_table(self, table: pa.Table, row_group_size: int = 16_384) -> None:
        self.write_bytes(as_parquet(table, row_group_size))

    def sweep(self) -> None:
        """Remove unfinished files here and below, of all writers: only for a folder's only one."""
        for info in self.children(recursive=True) if self.is_local else ():
            if _UNFINISHED.search(info.path):
                os.unlink(info.path)

    def delete(self) -> None:
        """Remove the file or the whole folder; no error where there is none."""
        self.patiently(_delete)


def _read(fs: pyarrow.fs.FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as stream:
        return stream.read()


def _put(data: bytes | memoryview, fs: pyarrow.fs.FileSystem, path: str) -> None:
    with fs.open_output_stream(path) as stream:
        stream.write(data)


def _put_file(file: IO[bytes], fs: pyarrow.fs.FileSystem, path: str) -> None:
    file.seek(0)
    with fs.open_output_stream(path) as stream:
        while data := file.read(_PIECE):
            stream.write(data)


def _delete(fs: pyarrow.fs.FileSystem, path: str) -> None:
    info = fs.get_file_info(path)
    # Another may be faster, or the answer to an earlier try was lost.
    with suppress(FileNotFoundError):
        if info.is_file:
            fs.delete_file(path)
        elif info.type == pyarrow.fs.FileType.Directory:
            fs.delete_dir(path)


def as_parquet(table: pa.Table, row_group_size: int = 16_384) -> memoryview:
    """The bytes of a Parquet file, with a checksum a page."""
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=row_group_size, write_page_checksum=True
    )
    return sink.getbuffer()


def from_parquet(data: bytes | memoryview, columns: list[str] | None = None) -> pa.Table:
    """The table of `as_parquet`, or some of its columns. Raises Malformed if it is not whole."""
    with parsing(f"a file of {len(data):,} bytes", "a Parquet file"):
        return _table(pa.BufferReader(data), columns)


def _table(stream: pa.NativeFile, columns: list[str] | None) -> pa.Table:
    with pq.ParquetFile(stream, page_checksum_verification=True) as file:
        check_claims(file.metadata, stream.size())
        has = file.schema_arrow.names
        if lacking := [name for name in columns or () if name not in has]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        return file.read(columns)


def check_claims(footer: pq.FileMetaData, file_bytes: int) -> None:
    """Raise ValueError if a Parquet file would fill the memory with what its size cannot hold."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if footer.num_rows > _ROWS_A_BYTE * file_bytes or unpacked > _UNPACKED * file_bytes + 2**26:
        raise ValueError(
            f"{file_bytes:,} bytes claim to hold {footer.num_rows:,} rows, {unpacked:,} bytes"
        )
