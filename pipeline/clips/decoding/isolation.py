"""Decoding where a decoder that hangs, crashes or eats memory costs one clip, not its worker.

Files are decoded in a child process that lives as long as its worker: started at first use, fed
over a pipe, its pictures and sound handed back through shared memory. Nothing can interrupt a
library that spins, and nothing can survive its segmentation fault, but a process can be ended:

- time: the child sets itself an alarm for every step; the kernel ends it, even where the worker
  is gone already, so that no child outlives its step's time limit;
- crashes: the end of the pipe is noticed, the child replaced;
- memory: the child's data segment is limited, and one that has grown is replaced between files.

What was unanswered is tried once more, each clip alone, so that a clip is rejected for its own
fault only.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, each_clip
from pipeline.clips.decoding.media import Source
from pipeline.clips.decoding.probe import MediaInfo, probe
from pipeline.clips.decoding.shrink import shrink
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig
from pipeline.storage import Location

# What a decoder may hold; 8K video with 16 reference frames needs 0.8 GB.
MEMORY_LIMIT = 3 << 30
# A child that holds more than this between files is replaced.
_GROWN = 1 << 30
_LOOK_EVERY = 16
# Between the limit that decoding checks by itself and the kernel's.
_GRACE_S = 1.0
# Longest that a child may take to start, and the worker's last resort when the alarm fails.
_START_S = 120.0


@dataclass
class _Place:
    """Where in shared memory an array lies."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


def decode_clips_isolated(
    source: Source, requests: Sequence[ClipRequest], config: ClipsConfig
) -> list[DecodedClip | Reject]:
    """`decode.decode_clips`, safe from the decoder; a clip that it stops ends as one reject."""
    results: dict[int, DecodedClip | Reject] = {}
    fault = _decode(source, requests, list(range(len(requests))), config, results)
    alone = len(requests) == 1
    for number in range(len(requests)):
        if number in results:
            continue
        assert fault is not None
        if alone and fault.reason is Reason.TIMEOUT:
            results[number] = fault  # it would take as long again
            continue
        again = _decode(source, requests, [number], config, results)
        if number not in results:
            results[number] = again or fault
    return [results[number] for number in range(len(requests))]


def probe_isolated(source: Location, timeout_s: float = 30.0) -> MediaInfo | Reject:
    """`probe.probe`, safe from the decoder."""
    return _asked("probe", source, timeout_s, limit_s=timeout_s)


def shrink_isolated(
    source: Location, start_s: float, end_s: float, config: ClipsConfig, codec: str
) -> tuple[bytes, float] | Reject:
    """`shrink.shrink`, safe from the decoder."""
    return _asked("shrink", source, start_s, end_s, config, codec, limit_s=config.timeout_s)


def close() -> None:
    """End this process's child; the next call starts another."""
    global _CHILD
    with _LOCK:
        if _CHILD is not None:
            _CHILD.close()
        _CHILD = None


def _asked(*question: Any, limit_s: float) -> Any:
    """The child's one answer to a question; tried again after a crash, not after a time-out."""
    fault = Reject(Reason.CRASHED)
    for _ in range(2):
        try:
            with _LOCK:
                (answer,) = _child().ask(question, limit_s)
                return answer
        except _Ended as ended:
            fault = ended.fault
            if fault.reason is Reason.TIMEOUT:
                break
    return fault


def _decode(
    source: Source,
    requests: Sequence[ClipRequest],
    numbers: list[int],
    config: ClipsConfig,
    results: dict[int, DecodedClip | Reject],
) -> Reject | None:
    """Fill in results as far as they come; the fault that stopped them, if any."""
    wanted = [requests[number] for number in numbers]
    try:
        with _LOCK:
            child = _child()
            ask = ("decode", source, wanted, config)
            for place, answer in child.ask(ask, config.timeout_s * (1 + len(wanted))):
                results[numbers[place]] = child.received(answer)
    except _Ended as ended:
        return ended.fault
    return None


class _Ended(Exception):
    def __init__(self, fault: Reject) -> None:
        super().__init__(fault)
        self.fault = fault


class _Child:
    """The worker's end of a decoding process."""

    def __init__(self) -> None:
        self.memory = _anonymous_file()
        self.view: mmap.mmap | None = None
        ours, theirs = Pipe()
        self.pipe = ours
        # A plain child rather than multiprocessing's: that would import the worker's main module
        # again, and a daemonic worker may not have children.
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        handles = (theirs.fileno(), self.memory)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, *map(str, handles)],
            pass_fds=handles,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self.tired = False

    def ask(self, question: tuple[Any, ...], limit_s: float) -> Iterator[Any]:
        """Answers as they come.

        Raises:
            _Ended: the child did not live to give them all.
        """
        finished = False
        try:
            self.pipe.send(question)
            while True:
                # The child's own alarm ends it; this is for one that cannot even be alarmed.
                if not self.pipe.poll(2 * limit_s + _START_S):
                    raise TimeoutError
                kind, answer = self.pipe.recv()
                if kind == "end":
                    last, self.tired = answer
                    finished = True
                    if last is not None:
                        yield last
                    return
                yield answer
        except (EOFError, OSError) as error:  # TimeoutError is one
            raise _Ended(self._autopsy(isinstance(error, TimeoutError))) from error
        finally:
            # An interrupted worker must not find this question's answers under the next one.
            self.tired = self.tired or not finished

    def received(
        self, answer: tuple[_Place | None, _Place | None] | Reject
    ) -> DecodedClip | Reject:
        """Arrays of our own from those in shared memory, which the next clip may overwrite."""
        if isinstance(answer, Reject):
            return answer
        return DecodedClip(*(None if place is None else self._array(place) for place in answer))

    def _array(self, place: _Place) -> np.ndarray:
        size = os.fstat(self.memory).st_size
        if self.view is None or len(self.view) < size:
            self.view = mmap.mmap(self.memory, size)
        count = int(np.prod(place.shape))
        flat = np.frombuffer(self.view, place.dtype, count, place.offset)
        return flat.reshape(place.shape).copy()

    def _autopsy(self, silent: bool) -> Reject:
        if silent:
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.poll()
        self.close()
        if silent or code == -signal.SIGALRM:
            return Reject(Reason.TIMEOUT, "the decoder did not come back and was stopped")
        if code == -signal.SIGKILL:
            return Reject(Reason.CRASHED, "the decoding process was killed; out of memory?")
        died = signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"
        return Reject(Reason.CRASHED, f"the decoding process ended with {died}")

    def close(self) -> None:
        self.pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1

    @property
    def usable(self) -> bool:
        return not self.tired and not self.pipe.closed and self.process.poll() is None


_LOCK = threading.RLock()
_CHILD: _Child | None = None
_OWNER = 0  # a forked worker must not share its parent's child
_MAIN = """
import sys
from pipeline.clips.decoding.isolation import serve
serve(*map(int, sys.argv[1:]))
"""


def _child() -> _Child:
    global _CHILD, _OWNER
    if os.getpid() != _OWNER:
        _CHILD, _OWNER = None, os.getpid()
    if _CHILD is None or not _CHILD.usable:
        if _CHILD is not None:
            _CHILD.close()
        _CHILD = _Child()
    return _CHILD


def _anonymous_file() -> int:
    """Handle of memory that has no name, so that nothing is left behind when both ends are gone."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("clips")
    with tempfile.TemporaryFile() as stream:
        return os.dup(stream.fileno())


@atexit.register
def _end() -> None:
    if os.getpid() == _OWNER:
        close()


# -- the child ----------------------------------------------------------------------------------


def serve(pipe_handle: int, memory_handle: int) -> None:
    """Answer questions until the worker hangs up (the child's whole life)."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit_memory()
    pipe = Connection(pipe_handle)
    shared = _Shared(memory_handle)
    asked = 0
    while True:
        try:
            kind, *question = pipe.recv()
        except (EOFError, OSError):
            return
        last: Any = None
        try:
            if kind == "probe":
                _allow(question[1])
                last = probe(*question)
            elif kind == "shrink":
                _allow(question[3].timeout_s)
                last = shrink(*question)
            else:
                shared.reset()
                source, requests, config = question
                for number, result in each_clip(source, requests, config, _allow):
                    if last is not None:
                        pipe.send(("answer", last))
                    last = (number, shared.put(result))
            _allow(None)
            asked += 1
            tired = asked % _LOOK_EVERY == 0 and _resident() > _GROWN
            pipe.send(("end", (last, tired)))  # with the last answer: one message less to wait for
        except (BrokenPipeError, ConnectionResetError):
            return


class _Shared:
    """Shared memory that grows with what one question's answers need."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._size = 0
        self._view: mmap.mmap | None = None
        self._end = 0

    def reset(self) -> None:
        self._end = 0

    def put(self, result: DecodedClip | Reject) -> tuple[_Place | None, _Place | None] | Reject:
        if isinstance(result, Reject):
            return result
        return self._placed(result.video), self._placed(result.audio)

    def _placed(self, array: np.ndarray | None) -> _Place | None:
        if array is None:
            return None
        place = _Place(self._end, array.shape, array.dtype.str)
        self._end += -(-array.nbytes // 64) * 64
        if self._end > self._size:
            self._size = max(2 * self._size, self._end, 1 << 20)
            os.ftruncate(self._handle, self._size)
            self._view = mmap.mmap(self._handle, self._size)
        assert self._view is not None
        flat = np.frombuffer(self._view, array.dtype, array.size, place.offset)
        flat.reshape(array.shape)[...] = array
        return place


def _allow(seconds: float | None) -> None:
    """Let the kernel end this process unless the next step is done in time."""
    signal.setitimer(signal.ITIMER_REAL, 0.0 if seconds is None else seconds + _GRACE_S)


def _limit_memory() -> None:
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        return  # not on this system


def _resident() -> int:
    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
