"""Rejects: files and clips that could not be used, and why, as rows of a table and exceptions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.storage import Location


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
    CHANGED = "changed"  # not the file that was indexed: another size or ETag
    TIMEOUT = "timeout"
    CRASHED = "crashed"  # the decoder took its process down
    NOT_FINITE = "not_finite"  # an encoder gives no finite numbers for it


# What an outage of storage looks like: such inputs are worth another try.
AWAY = frozenset({Reason.MISSING, Reason.UNREADABLE, Reason.TIMEOUT})


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


# As the modality of a reject: the stored copy alone was lost, and the clip read from its media.
STORED = "stored"


class RejectedClip(NamedTuple):
    """A reject of a clip that is known by its index; of one modality, or of the whole clip."""

    clip_index: int
    uri: str
    clip_id: str
    modality: str | None  # None: nothing of the clip is left; else what it lost
    reason: str
    detail: str

    @staticmethod
    def dumps(rows: Iterable[RejectedClip]) -> str:
        """As a column of a batch holds them."""
        return json.dumps(list(rows))

    @staticmethod
    def loads(column: object) -> list[RejectedClip]:
        return [RejectedClip(*row) for row in json.loads(str(column))]


def kind_of_loss(modality: str | None) -> str:
    """Under which name a reject is counted: whole inputs and what was lost of others, apart."""
    return "rejected" if modality is None else f"lost_{modality}"


SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("clip_id", pa.string()),
        ("stage", pa.string()),
        ("modality", pa.string()),  # null: the whole input; video, audio, stored: what it lost
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempt", pa.int32()),
    ]
)


def write_rejects(
    place: Location, rejected: pa.Table, stage: str, attempts: np.ndarray | int = 1
) -> None:
    """Columns of `RejectedClip` → a part of the rejects table.

    Args:
        attempts: how often the clips were tried by now, or int64 [rejected], each of them.
    """
    columns = {name: rejected[name].cast(pa.string()) for name in RejectedClip._fields[1:]}
    columns["stage"] = pa.repeat(stage, len(rejected))
    columns["attempt"] = pa.array(np.broadcast_to(attempts, len(rejected)), pa.int32())
    place.write_table(pa.table(columns).select(SCHEMA.names).cast(SCHEMA))
