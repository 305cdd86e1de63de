"""FFmpeg's errors, as PyAV raises them, → rejects."""

from __future__ import annotations

import errno
from contextlib import suppress
from types import TracebackType

import av
import av.error

from pipeline.clips.decoding.exceptions import described, reject_for
from pipeline.clips.rejects import Reason, Reject

av.logging.set_level(av.logging.PANIC)

# FFmpeg's errors that are the system's, too.
_OF_THE_SYSTEM = FileNotFoundError | IsADirectoryError | TimeoutError | MemoryError


def reject_for_ffmpeg(error: BaseException, otherwise: Reason) -> Reject:
    """`exceptions.reject_for`, for FFmpeg's errors as well."""
    if not isinstance(error, av.error.FFmpegError) or isinstance(error, _OF_THE_SYSTEM):
        return reject_for(error, otherwise)
    if isinstance(error, av.error.ExitError):
        return Reject(Reason.TIMEOUT, described(error))
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError):
        return Reject(Reason.UNSUPPORTED, described(error))
    return Reject(otherwise, described(error))


class FFmpegErrorsAsRejects:
    """``with FFmpegErrorsAsRejects():`` raises FFmpeg's errors as rejects, corrupt by default."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, av.error.FFmpegError):
            raise reject_for_ffmpeg(error, Reason.CORRUPT) from error


def forget_logged_errors() -> None:
    """Start a file with a clean log.

    PyAV adds the last line that FFmpeg logged as an error to the text of the next exception.
    Without this the line may be about another file.
    """
    with suppress(av.error.FFmpegError):
        av.error.err_check(-errno.EINVAL)
