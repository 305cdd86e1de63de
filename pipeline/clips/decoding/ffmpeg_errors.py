"""FFmpeg's errors, as PyAV raises them, → rejects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.error

from pipeline.clips.rejects import Reason, Reject, described, reject_for

av.logging.set_level(av.logging.PANIC)

# FFmpeg's errors that are the system's, too.
_OF_THE_SYSTEM = FileNotFoundError | IsADirectoryError | TimeoutError | MemoryError


def reject_for_ffmpeg(error: BaseException, otherwise: Reason) -> Reject:
    """`reject_for`, for FFmpeg's errors as well."""
    if not isinstance(error, av.error.FFmpegError) or isinstance(error, _OF_THE_SYSTEM):
        return reject_for(error, otherwise)
    if isinstance(error, av.error.ExitError):
        otherwise = Reason.TIMEOUT
    elif isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError):
        otherwise = Reason.UNSUPPORTED
    return Reject(otherwise, described(error))


@contextmanager
def ffmpeg_errors_as_rejects() -> Iterator[None]:
    """FFmpeg's errors in a ``with`` block are raised as rejects, corrupt by default."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise reject_for_ffmpeg(error, Reason.CORRUPT) from error
