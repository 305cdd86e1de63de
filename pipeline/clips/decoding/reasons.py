"""From exceptions of storage and of the decoder to reasons."""

from __future__ import annotations

import av
import pyarrow as pa

from pipeline.clips.rejects import Reason, Reject


def explain(error: BaseException, otherwise: Reason) -> Reject:
    """The reject that an exception of storage or of the decoder stands for."""
    if isinstance(error, Reject):
        return error
    detail = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, av.error.FileNotFoundError | FileNotFoundError):
        return Reject(Reason.MISSING, detail)
    if isinstance(error, IsADirectoryError):
        return Reject(Reason.UNREADABLE, detail)
    if isinstance(error, av.error.ExitError | TimeoutError):
        return Reject(Reason.TIMEOUT, detail)
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError):
        return Reject(Reason.UNSUPPORTED, detail)
    if isinstance(error, MemoryError):
        return Reject(Reason.TOO_LARGE, detail)
    if isinstance(error, av.error.FFmpegError):
        return Reject(otherwise, detail)
    if isinstance(error, PermissionError | OSError | pa.ArrowException):
        return Reject(Reason.UNREADABLE, detail)
    return Reject(otherwise, detail)
