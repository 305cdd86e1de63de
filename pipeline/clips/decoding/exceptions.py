"""Exceptions of storage and of the system → rejects."""

from __future__ import annotations

import pyarrow as pa

from pipeline.clips.rejects import Reason, Reject


def reject_for(error: BaseException, otherwise: Reason) -> Reject:
    """The reject that an exception stands for; `otherwise` is the reason where none is known."""
    if isinstance(error, Reject):
        return error
    return Reject(_reason(error, otherwise), described(error))


def described(error: BaseException) -> str:
    """What a reject says about its exception, at most 300 characters."""
    return f"{type(error).__name__}: {error}"[:300]


def _reason(error: BaseException, otherwise: Reason) -> Reason:
    # In this order: all but the last are OSErrors or may be Arrow's, too.
    if isinstance(error, FileNotFoundError):
        return Reason.MISSING
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT
    if isinstance(error, MemoryError):
        return Reason.TOO_LARGE
    if isinstance(error, OSError | pa.ArrowException):
        return Reason.UNREADABLE
    return otherwise
