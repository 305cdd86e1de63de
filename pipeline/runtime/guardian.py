"""Ends what a Ray that the job started leaves behind when the job is killed with -9.

The kernel ends the head's processes with the job, but not their children: agents live on for half
a minute, and workers and decoding children that are stuck for ever. A small process of its own
waits for the job's end, and then ends every process that inherited its mark. It imports nothing
that takes time, and runs as a file: ``python guardian.py PID MARK``.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MARK = "XDC_RAY_OF"  # in the environment of all processes of one Ray
_GIVE_UP_S = 30.0


@contextmanager
def guarded() -> Iterator[list[str]]:
    """What this process starts inside the block, and all that starts in turn, ends with it.

    The caller puts Ray's session directory into the list.
    """
    session: list[str] = []
    if not sys.platform.startswith("linux"):
        yield session
        return
    mark = uuid.uuid4().hex
    guardian = subprocess.Popen(
        [sys.executable, "-I", __file__, str(os.getpid()), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the job
        text=True,
    )
    os.environ[MARK] = mark
    try:
        yield session
    finally:
        del os.environ[MARK]
        assert guardian.stdin is not None
        with suppress(BrokenPipeError), guardian.stdin as told:
            told.writelines(session)


def belonging(mark: str, session: str) -> list[int]:
    """This user's processes that inherited the mark, or are Ray's of that session directory."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if _inherited(name, mark) or (session and _is_rays(name, session)):
                found.append(int(name))
    return found


def _inherited(pid: str, mark: str) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as environment:
        return f"{MARK}={mark}".encode() in environment.read().split(b"\0")


def _is_rays(pid: str, session: str) -> bool:
    """Ray's Python processes change their titles, and may overwrite their environment with them.

    They and what they start have open logs there; who only reads these is not meant.
    """
    with open(f"/proc/{pid}/cmdline", "rb") as line:
        titled = line.read(5) == b"ray::"
    files = os.listdir(f"/proc/{pid}/fd") if titled else ("1", "2")
    return any(_opened(pid, number).startswith(f"{session}/") for number in files)


def _opened(pid: str, number: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except OSError:  # closed meanwhile
        return ""


def main(driver: int, mark: str) -> None:
    session = sys.stdin.readline().strip()  # empty if the job ends before it knows
    with suppress(ProcessLookupError):
        waiting = os.pidfd_open(driver)
        if os.getppid() == driver:  # else it has ended already, and the number may be another's
            select.select([waiting], [], [])
    end = time.monotonic() + _GIVE_UP_S
    while (left := belonging(mark, session)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
