"""What a job does when it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_silent = threading.Event()  # the next signal comes from this process itself
_signals: list[int] = []  # that told this process to stop


def handle() -> None:
    """Have the main thread stop in good order at Ctrl-C and SIGTERM; elsewhere, nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    # Ray's own handler, which `ray.init` sets, prints its C++ stack and dies on the spot.
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background
        signal.signal(signal.SIGINT, _stop)


def interrupt() -> bool:
    """From another thread: the main one raises `KeyboardInterrupt`, also where it waits for Ray.

    The caller then says why, instead of the words for somebody's signal. False where the handler of
    signals is not this module's: nothing happens.
    """
    if signal.getsignal(signal.SIGTERM) is not _stop:
        return False
    _silent.set()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    return True


def exit_code() -> int:
    """Of a job that a signal stopped: 128 and the signal's number, as shells have it."""
    return 128 + (_signals[0] if _signals else signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    """`ray job stop`, the machine going down, or Ctrl-C."""
    if _silent.is_set():
        _silent.clear()
        raise KeyboardInterrupt
    # At once, because the job has a few seconds. Not by `print`, which this may have interrupted.
    word = "interrupted" if number == signal.SIGINT else "stopped"
    # On a terminal the live line goes and the cursor comes back.
    clear = "\r\033[K\033[?25h" if os.isatty(2) else ""
    os.write(2, f"{clear}{word}; the same command goes on from here\n".encode())
    _signals.append(number)
    signal.signal(number, signal.SIG_DFL)  # who asks twice need not wait
    # Any other exception is lost where the signal meets Ray waiting (`ray.get`).
    raise KeyboardInterrupt
