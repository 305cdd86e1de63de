"""Addresses of files and folders: as people write them, and as tables and logs keep them.

A local path is a path: ``%41``, ``?`` and ``#`` are part of the name. In a URI such as ``s3://``
everything after the bucket is the key, as it stands, as with the clouds' own tools. Only options of
the connection may follow, ``?region=eu-west-1&scheme=http``. A key that looks as if it had some
ends in ``?&``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipeline.errors import UserError

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # what pyarrow opens
_ALIASES = {"s3a": "s3", "s3n": "s3"}  # Hadoop's names
# Options of pyarrow's file systems, and `request_payer` (of `storage`).
_OPTIONS = {
    *("allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "background_writes"),
    *("blob_storage_authority", "blob_storage_scheme", "buffer_size", "client_id"),
    *("check_directory_existence_before_creation", "credential_kind", "default_block_size"),
    *("dfs_storage_authority", "dfs_storage_scheme", "enable_tls", "endpoint_override"),
    *("force_virtual_addressing", "project_id", "region", "replication", "request_payer"),
    *("retry_limit_seconds", "scheme", "smart_defaults", "tenant_id", "tls_ca_dir_path"),
    *("tls_ca_file_path", "tls_verify_certificates", "user"),
}
_KEY_ENDS = "?&"
# User and password before a host. Names of buckets hold neither sign, and AWS's keys hold slashes.
_LOGIN = re.compile(r"(?<=://)[^/?#@]*:[^/?#@]*@")
_BUCKET = re.compile(r"(s3[an]?|gc?s)://", re.IGNORECASE)
_BUCKET_LOGIN = re.compile(r"(?<=://)(?!anonymous@)([^/?#@]*:[^?#]*@|[^/?#@:]*@|[^/?#]*:[^?#]*)")
_SECRET = re.compile(
    r"([?&](?:sig|[^=&?/]*(?:secret|token|passw|access_?key|account_?key|signature|"
    r"credential(?!_kind))[^=&?/]*)=)[^&?]*",
    re.IGNORECASE,
)


def is_uri(text: str) -> bool:
    return _URI.match(text) is not None


def split_address(text: str) -> tuple[str, str]:
    """The address without a trailing slash, and the options of its connection.

    A local path becomes absolute; ``file://`` URIs are decoded to such paths.

    Raises:
        UserError: it is empty, names no bucket, has a scheme that nothing here opens, or carries
            credentials.
    """
    if not text.strip():
        raise UserError("the address of a file or folder is empty")
    if "\0" in text:
        raise UserError(f"the address {redacted(text)[:200]!r} holds a NUL character")
    found = _URI.match(text)
    if not found or found[1].lower() == "file":
        return _local_path(text), ""
    given = found[1].lower()
    scheme = _ALIASES.get(given, given)
    if scheme not in _SCHEMES:
        raise UserError(
            f"cannot open {redacted(text)!r} as a storage place: nothing here reads {given}://. "
            "Copy the files to a disk or a bucket first"
        )
    rest, _, options = _parts(without_credentials(text)[found.end() :])
    rest = rest.rstrip("/")
    if not rest or rest.startswith("/"):
        raise UserError(f"{redacted(text)!r} names no bucket or host; write {scheme}://BUCKET/…")
    return f"{scheme}://{rest}", options


def joined(address: str, options: str) -> str:
    """One text of both: `split_address` gives them back. Always valid UTF-8."""
    if not is_uri(address):
        return printable(address)
    mark = _KEY_ENDS if _parts(address)[0] != address or redacted(address) != address else ""
    return f"{address}{mark}?{options}" if options else address + mark


def printable(path: str) -> str:
    """A local path, or its ``file://`` URI where the name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


def redacted(text: str) -> str:
    """An address without passwords and keys, for messages and tables."""
    if not is_uri(text):
        return text
    login = _BUCKET_LOGIN if _BUCKET.match(text) else _LOGIN
    text = login.sub("***@", text, count=1)
    _, all_is_key, _ = _parts(text)
    return text if all_is_key else _SECRET.sub(r"\1***", text)


def without_credentials(text: str) -> str:
    """The same text. Tables, logs and settings that others read will hold it.

    Raises:
        UserError: it is a URI that carries credentials.
    """
    if redacted(text) == text:
        return text
    raise UserError(
        f"the address {redacted(text)!r} carries credentials, which would end up in tables and "
        "logs. Set them in the environment of every node instead (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY for S3, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for "
        "MLflow), or give the nodes a role"
    )


def _local_path(text: str) -> str:
    if is_uri(text):
        path = re.sub(r"^file://(localhost(?=/))?", "", text, flags=re.IGNORECASE)
        return os.path.abspath(os.fsdecode(unquote_to_bytes(os.fsencode(path))))
    return os.path.abspath(os.path.expanduser(text))


def _parts(text: str) -> tuple[str, str, str]:
    """What stands before the options, the mark that all of it is a key, and the options."""
    base, question, options = text.rpartition("?")
    pairs = [pair.partition("=") for pair in options.split("&")]
    if not (question and all(equals and name in _OPTIONS for name, equals, _ in pairs)):
        base, options = text, ""
    mark = _KEY_ENDS if base.endswith(_KEY_ENDS) else ""
    return base.removesuffix(mark), mark, options
