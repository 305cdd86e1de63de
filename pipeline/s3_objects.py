"""S3 objects that pyarrow cannot read: in requester-pays buckets, and under keys such as ``a//b``.

pyarrow takes a key for a path, which has no empty, ``.`` or ``..`` parts, and it cannot tell S3 who
pays. boto3 takes keys as they are, and is asked here only where it must be: it costs more time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import pyarrow.fs
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

_NOT_A_PATH = re.compile(r"(^|/)\.{0,2}(/|$)")
_MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")


def needs_s3_objects(key: str, options: str) -> bool:
    """Whether pyarrow cannot read this key with these options."""
    return "request_payer=" in options or (key != "" and bool(_NOT_A_PATH.search(key)))


class S3Objects(AbstractFileSystem):
    """Objects of S3 through boto3, to list and to read."""

    protocol = "s3"
    cachable = False
    OPTIONS: ClassVar = {"endpoint_override", "scheme", "region", "request_payer"}

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__()
        self.connection = options
        payer = options.get("request_payer")
        self.payer = {"RequestPayer": payer} if payer else {}

    @staticmethod
    @lru_cache(maxsize=64)
    def file_system(options: str) -> pyarrow.fs.PyFileSystem:
        """For pyarrow. `options` are those of a `Location`: endpoint_override, scheme, region,
        request_payer."""
        found = S3Objects(dict(parse_qsl(options)))
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(found))

    @staticmethod
    @lru_cache(maxsize=64)
    def lister(options: str) -> S3Objects | None:
        """To list by pages; None where boto3 is not there or would need more than `OPTIONS`."""
        given = dict(parse_qsl(options))
        if given.keys() - S3Objects.OPTIONS or find_spec("boto3") is None:
            return None
        return S3Objects(given)

    def page(self, path: str, token: str) -> tuple[list[str], str]:
        """Paths of some files below a path, and the token of the next page; empty: there is none.

        Raises:
            OSError: as storage reports.
        """
        bucket, _, key = path.partition("/")
        page = self._page(bucket, f"{key}/" if key else "", ContinuationToken=token)
        keys = [entry["Key"] for entry in page.get("Contents", [])]
        names = [f"{bucket}/{key}" for key in keys if not key.endswith("/")]  # markers of folders
        return names, page.get("NextContinuationToken", "")

    @cached_property
    def client(self) -> Any:
        try:
            import boto3
            import botocore.config
        except ImportError as error:
            needs = 'this object is read with boto3: pip install "xdc-ray[s3]"'
            raise OSError(needs) from error
        host = self.connection.get("endpoint_override")
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"{self.connection.get('scheme', 'https')}://{host}" if host else None,
            region_name=self.connection.get("region"),
            config=botocore.config.Config(retries={"mode": "standard", "max_attempts": 4}),
        )

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        bucket, _, key = path.rstrip("/").partition("/")
        try:
            if not key:
                raise FileNotFoundError(path)
            with _os_errors(path):
                head = self.client.head_object(Bucket=bucket, Key=key, **self.payer)
        except FileNotFoundError:
            if self._page(bucket, f"{key}/" if key else "", MaxKeys=1).get("KeyCount"):
                return {"name": path, "size": None, "type": "directory"}
            raise
        return {"name": path, "size": head["ContentLength"], "type": "file", "etag": head["ETag"]}

    def ls(self, path: str, detail: bool = True, **more: Any) -> list[Any]:
        found = [*self._below(path, "/")]
        return found if detail else [entry["name"] for entry in found]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **more: Any,
    ) -> Any:
        found = self._below(path, "/" if maxdepth == 1 else "")
        named = {e["name"]: e for e in found if withdirs or e["type"] == "file"}
        return named if detail else sorted(named)

    def _below(self, path: str, delimiter: str) -> Iterator[dict[str, Any]]:
        bucket, _, key = path.rstrip("/").partition("/")
        prefix = f"{key}/" if key else ""
        token: dict[str, str] = {}
        while True:
            page = self._page(bucket, prefix, Delimiter=delimiter, **token)
            for entry in page.get("CommonPrefixes", []):
                name = f"{bucket}/{entry['Prefix'][:-1]}"
                yield {"name": name, "size": None, "type": "directory"}
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # markers of folders
                    name = f"{bucket}/{entry['Key']}"
                    yield {"name": name, "size": entry["Size"], "type": "file"}
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, bucket: str, prefix: str, **more: Any) -> dict[str, Any]:
        with _os_errors(f"{bucket}/{prefix}"):
            return self.client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, **{k: v for k, v in more.items() if v}, **self.payer
            )

    def _open(self, path: str, mode: str = "rb", **options: Any) -> _Object:
        if mode != "rb":
            raise OSError(f"cannot write {path}: such objects are only read")
        return _Object(self, path, mode, block_size=1 << 20, cache_type="none")

    # fsspec's own take every fault for an absence.
    def isfile(self, path: str) -> bool:
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        return self._kind(path) == "directory"

    def exists(self, path: str, **more: Any) -> bool:
        return self._kind(path) is not None

    def _kind(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None


class _Object(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        bucket, _, key = self.path.partition("/")
        with _os_errors(self.path):
            where = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
            return self.fs.client.get_object(**where, **self.fs.payer)["Body"].read()


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """botocore's errors as the system's."""
    try:
        yield
    except Exception as error:
        answer = getattr(error, "response", {})
        code = str(answer.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise FileNotFoundError(path) from error
        if code in ("403", "AccessDenied"):
            raise PermissionError(f"{path}: {error}") from error
        if type(error).__module__.startswith("botocore"):
            raise OSError(f"{path}: {error}") from error
        raise
