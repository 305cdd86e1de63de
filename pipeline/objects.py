"""Reading ranges of remote objects: one request a range, which also tells the size and ETag.

Buckets of S3 are read with obstore: pyarrow asks for an object's header before every first range,
and takes four times as long on the processor. Whatever obstore does not serve as pyarrow does
(other schemes, profiles of shared credentials, assumed roles, odd keys) is read with pyarrow.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pyarrow.fs
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import S3Store

from pipeline.storage import Location

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig, S3Config


class Changed(OSError):
    """The object is not the one that was read before."""


def get_version(place: Location) -> tuple[bytes, object] | None:
    """A small file's content and its version, for `put_if`; None where there is no such file.

    Raises:
        OSError: as storage reports.
    """
    client = None if place.is_local else _client(place, patient=False)
    if client is None:
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            return None
        return content, content
    try:
        answer = obstore.get(*client)
        return bytes(answer.bytes()), answer.meta["e_tag"]
    except (FileNotFoundError, NotFoundError):
        return None
    except BaseError as error:
        raise OSError(str(error).partition("\n")[0]) from error


def put_if(place: Location, content: bytes, version: object) -> object | None:
    """Write a small file if it still has this version (None: if there is none).

    Of several writers one succeeds: on disks under the file's lock, in S3 by a conditional put.
    Other object stores have no such thing in pyarrow: there the file is compared before.

    Returns:
        The new version; None if the file has another version, and was left alone.

    Raises:
        OSError: as storage reports.
    """
    if place.is_local:
        try:
            return _put_locked(place, content, version)
        except OSError as error:
            error.filename = error.filename or str(place)
            raise
    client = _client(place, patient=False)
    if client is None:
        found = get_version(place)
        if (found[1] if found else None) != version:
            return None
        place.write_bytes(content)
        return content
    mode: Any = "create" if version is None else {"e_tag": version}
    try:
        return obstore.put(*client, content, mode=mode)["e_tag"]
    except (AlreadyExistsError, PreconditionError):
        return None
    except BaseError as error:
        raise OSError(str(error).partition("\n")[0]) from error


def _put_locked(place: Location, content: bytes, version: object) -> bytes | None:
    os.makedirs(os.path.dirname(place.uri), exist_ok=True)
    with os.fdopen(os.open(place.uri, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.read() != (version or b""):
            return None
        file.seek(0)
        file.truncate()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return content


class RemoteObject:
    """One object of a bucket, read by ranges. Thread-safe.

    Args:
        size, etag: as known from before, None where they are not; what is read must be of the
            same object. The first answer fills them in.
        patient: try a request up to ten times, ever longer apart, for up to three minutes; else
            four times, for a few seconds.
    """

    def __init__(
        self,
        place: Location,
        size: int | None = None,
        etag: str | None = None,
        patient: bool = True,
    ) -> None:
        self.place, self.size, self.etag = place, size, etag
        self.requests = 0  # answered so far, of ranges
        self._lock = threading.Lock()
        self._client = _client(place, patient)
        self._file: pyarrow.NativeFile | None = None

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), fewer where the object ends before; b"" of an empty object.

        Raises:
            Changed: its size or ETag is not that of an earlier range, or as given.
            FileNotFoundError, OSError: as storage reports.
        """
        self.requests += 1
        if self._client is None:
            return self._read_with_pyarrow(start, stop)
        store, key = self._client
        options: GetOptions = {"range": (start, stop)}
        if self.etag:
            options["if_match"] = self.etag
        try:
            answer = obstore.get(store, key, options=options)
            meta = answer.meta
            self._check(int(meta["size"]), meta["e_tag"])
            return bytes(answer.bytes())
        except PreconditionError as error:
            raise Changed(f"its ETag is not {self.etag} any more") from error
        except BaseError as error:
            said = str(error).partition("\n")[0]
            # A range of an empty object cannot be satisfied.
            if start == 0 and "status code: 416" in said:
                return self._read_empty(store, key)
            raise OSError(said) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_empty(self, store: S3Store, key: str) -> bytes:
        try:
            meta = obstore.head(store, key)
        except BaseError as error:
            raise OSError(str(error).partition("\n")[0]) from error
        self._check(int(meta["size"]), meta["e_tag"])
        return b""

    def _read_with_pyarrow(self, start: int, stop: int) -> bytes:
        if self._file is None:
            self._file = self.place.fs.open_input_file(self.place.path)
            self._check(self._file.size(), None)
        return self._file.read_at(max(0, min(stop, self._file.size()) - start), start)

    def _check(self, size: int, etag: str | None) -> None:
        with self._lock:
            if self.size is not None and size != self.size:
                raise Changed(f"it has {size:,} bytes, {self.size:,} before")
            if self.etag and etag and etag != self.etag:
                raise Changed(f"its ETag is {etag}, {self.etag} before")
            self.size, self.etag = size, self.etag or etag


_forked = False  # obstore's threads are not there after a fork, and it would wait for them


def _note_fork() -> None:
    global _forked
    _forked = _store.cache_info().currsize > 0


os.register_at_fork(after_in_child=_note_fork)


def _client(place: Location, patient: bool) -> tuple[S3Store, str] | None:
    """The bucket's client and the object's key; None where pyarrow must read it."""
    fs = place.fs
    bucket, _, key = place.path.partition("/")
    # obstore takes names apart at slashes: of others than these it would read another object.
    plain = all(part not in ("", ".", "..") for part in key.split("/")) and key.isprintable()
    if _forked or not plain or not isinstance(fs, pyarrow.fs.S3FileSystem):
        return None
    _, (options,) = fs.__reduce__()
    needed = ("access_key", "secret_key", "session_token", "anonymous", "region", "scheme")
    config = tuple((name, options[name]) for name in (*needed, "endpoint_override"))
    other = options["role_arn"] or options["force_virtual_addressing"]
    if other or options["proxy_options"]["host"] or options["tls_ca_file_path"]:
        return None
    if not options["access_key"] and not options["anonymous"] and _has_profile():
        return None
    return _store(bucket, config, patient), key


def _has_profile() -> bool:
    """Whether the AWS SDK would take credentials from its files, which obstore does not read."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return False
    files = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
    return any(
        Path(os.environ.get(variable) or Path.home() / ".aws" / name).exists()
        for variable, name in files.items()
    )


@lru_cache(maxsize=64)
def _store(bucket: str, options: tuple[tuple[str, Any], ...], patient: bool) -> S3Store:
    """A bucket's client, with one pool of connections a process."""
    given = dict(options)
    config: S3Config = {"region": given["region"], "skip_signature": given["anonymous"]}
    if given["access_key"]:
        config["access_key_id"] = given["access_key"]
        config["secret_access_key"] = given["secret_key"]
        if given["session_token"]:
            config["session_token"] = given["session_token"]
    if given["endpoint_override"]:
        endpoint = f"{given['scheme']}://{given['endpoint_override']}"
        # The second would be taken from the environment, before the first.
        config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint
    client: ClientConfig = {"allow_http": given["scheme"] == "http", "connect_timeout": "10s"}
    with suppress(KeyError, OSError):
        client["root_certificate"] = Path(os.environ["AWS_CA_BUNDLE"]).read_bytes()
    tries: RetryConfig = {"max_retries": 9}
    if not patient:
        tries = {"max_retries": 3, "retry_timeout": timedelta(seconds=5)}
    return S3Store(bucket, config=config, client_options=client, retry_config=tries)
