"""Rejects: files and clips that could not be used, and why, as rows of a table and exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa


class Reason(StrEnum):
    """The closed set of reasons; `detail` of a reject quotes the decoder."""

    MISSING = "missing"  # no such file or object
    UNREADABLE = "unreadable"  # it is there, but storage gave an error or no permission
    EMPTY_FILE = "empty_file"  # zero bytes
    NOT_MEDIA = "not_media"  # it neither opens nor begins like media
    NO_STREAMS = "no_streams"  # a container without video or audio
    STILL_IMAGE = "still_image"  # one image, or cover art, and no audio
    UNSUPPORTED = "unsupported"  # no decoder for its codec, or encrypted
    TOO_LARGE = "too_large"  # absurd dimensions, or more memory than there is
    TOO_SHORT = "too_short"
    BAD_CUT = "bad_cut"  # a cut outside the file, or one that ends before it starts
    CORRUPT = "corrupt"  # media, but damaged where it was needed
    TIMEOUT = "timeout"
    CRASHED = "crashed"  # the decoder took its process down


@dataclass(unsafe_hash=True)  # not frozen: Python sets attributes of exceptions on their way
class Reject(Exception):
    """Why one file or clip could not be used. Returned as a value; raised only inside decoding."""

    reason: Reason
    detail: str = ""

    def __reduce__(self) -> tuple[type[Reject], tuple[Reason, str]]:
        # An exception's own way forgets arguments given by keyword.
        return type(self), (self.reason, self.detail)


# What storage and the system raise. In this order: all but the last are OSErrors or may be Arrow's.
_SYSTEM: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Reason], ...] = (
    (FileNotFoundError, Reason.MISSING),
    (TimeoutError, Reason.TIMEOUT),
    (MemoryError, Reason.TOO_LARGE),
    ((OSError, pa.ArrowException), Reason.UNREADABLE),
)


def reject_for(error: BaseException, otherwise: Reason) -> Reject:
    """The reject that an exception stands for; `otherwise` is the reason where none is known."""
    if isinstance(error, Reject):
        return error
    reason = next((reason for kind, reason in _SYSTEM if isinstance(error, kind)), otherwise)
    return Reject(reason, f"{type(error).__name__}: {error}"[:300])


SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("clip_id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempt", pa.int32()),
    ]
)
