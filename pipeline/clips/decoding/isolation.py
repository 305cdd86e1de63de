"""Decoding where a decoder that hangs, crashes or eats memory costs one clip, not its worker.

Files are decoded in a child process (`child`), started at first use and ended with its worker. It
is fed over a pipe and returns video and audio through shared memory. A library that spins cannot be
interrupted and its segmentation fault is fatal, but a process can be ended and replaced:

- time: the child sets an alarm for every step; the kernel ends it, even if the worker is gone;
- crashes: the worker notices the end of the pipe and replaces the child;
- memory: the child's data segment is limited, and a child that has grown is replaced between files.

Unanswered clips are tried once more, each alone, then each modality of one alone, so that only what
is at fault is rejected. The worker loads no decoder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

from pipeline.clips.decoding.decode import ClipRequest, DecodedClip, joined
from pipeline.clips.decoding.decoder import MediaFile, MediaInfo, Source
from pipeline.clips.decoding.shared_memory import Place, SharedMemory
from pipeline.clips.rejects import Reason, Reject
from pipeline.config import ClipsConfig

Fetched = tuple[int, Place]  # offset in its file, and place in shared memory
_START_S = 120.0  # longest start of a child, and the worker's last resort when the alarm fails


def decode_clips_isolated(
    source: Source, requests: Sequence[ClipRequest], config: ClipsConfig
) -> list[DecodedClip | Reject]:
    """`decode.decode_clips`, safe from the decoder; a clip that it stops ends as one reject.

    Raises:
        UserError: there is no such decoder as `ClipsConfig.decoder`.
    """
    results, stopped = _decoded(source, requests, config)
    for number, request in enumerate(requests):
        if number in results:
            continue
        assert stopped is not None
        answer = None
        # One alone that took too long would take as long again.
        if len(requests) > 1 or stopped.reason is not Reason.TIMEOUT:
            found, again = _decoded(source, [request], config)
            answer, stopped = found.get(0), again or stopped
        results[number] = answer or _halves(source, request, config, stopped)
    return [results[number] for number in range(len(requests))]


def _decoded(
    source: Source, requests: Sequence[ClipRequest], config: ClipsConfig
) -> tuple[dict[int, DecodedClip | Reject], Reject | None]:
    """Results by number as far as they come, and what stopped them, if anything."""
    results: dict[int, DecodedClip | Reject] = {}
    try:
        with _LOCK:
            child = _child()
            question = ("decode", source, requests, config)
            for number, answer in child.ask(question, config.timeout_s * (1 + len(requests))):
                # Arrays of our own: the next clip may overwrite those in shared memory.
                if not isinstance(answer, Reject):
                    video, audio, lost = answer
                    answer = DecodedClip(child.memory.read(video), child.memory.read(audio), lost)
                results[number] = answer
    except Reject as reject:
        return results, reject
    return results, None


def _halves(
    source: Source, request: ClipRequest, config: ClipsConfig, stopped: Reject
) -> DecodedClip | Reject:
    """A clip that stopped the decoder: each modality alone, so that one alone is lost."""
    if not request.video or not request.audio:
        return stopped
    halves: list[DecodedClip | Reject] = []
    for half in (replace(request, audio=False), replace(request, video=False)):
        found, again = _decoded(source, [half], config)
        halves.append(found.get(0) or again or stopped)
    if all(isinstance(half, Reject) for half in halves):
        return stopped
    return joined(*halves)


def probe_isolated(
    source: Source, timeout_s: float = 30.0, decoder: str = "cpu"
) -> MediaInfo | Reject:
    """`decode.probe`, safe from the decoder."""
    return _asked("probe", source, timeout_s, decoder, limit_s=timeout_s)


def shrink_isolated(
    source: Source, start_s: float, end_s: float, config: ClipsConfig, codec: str
) -> bytes | Reject:
    """`shrink.shrink`, safe from the decoder."""
    return _asked("shrink", source, start_s, end_s, config, codec, limit_s=config.timeout_s)


def close() -> None:
    """End this process's child; the next call starts another."""
    global _CHILD
    with _LOCK:
        if _CHILD is not None:
            _CHILD.close()
        _CHILD = None


def _asked(*question: Any, limit_s: float, again: bool = True) -> Any:
    """The child's one answer to a question; tried again after a crash, not after a time-out."""
    try:
        with _LOCK:
            (answer,) = _child().ask(question, limit_s)
            return answer
    except Reject as reject:
        if again and reject.reason is not Reason.TIMEOUT:
            return _asked(*question, limit_s=limit_s, again=False)
        return reject


class _Child:
    """The worker's end of a decoding process."""

    def __init__(self) -> None:
        self.memory, self.inbox = SharedMemory(), SharedMemory()
        ours, theirs = Pipe()
        self.pipe = ours
        # A plain child rather than multiprocessing's: that would import the worker's main module
        # again, and a daemonic worker may not have children.
        path = os.pathsep.join(p for p in sys.path if p)
        handles = (theirs.fileno(), self.memory.handle, self.inbox.handle)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, *map(str, handles)],
            pass_fds=handles,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self.tired = False

    def ask(self, question: tuple[Any, ...], limit_s: float) -> Iterator[Any]:
        """Answers as they come.

        Raises:
            Reject: TIMEOUT or CRASHED: the child did not live to give them all.
            UserError: the settings are at fault, not the file.
        """
        finished = False
        try:
            self.pipe.send(self._posted(question))
            while not finished:
                # The child's own alarm ends it; this is for one that cannot even be alarmed.
                if not self.pipe.poll(2 * limit_s + _START_S):
                    raise TimeoutError
                kind, answer = self.pipe.recv()
                finished = kind != "answer"
                if kind == "error":
                    raise answer
                if kind == "end":
                    answer, self.tired = answer
                if answer is not None:
                    yield answer
        except (EOFError, OSError) as error:  # TimeoutError is one
            raise self._autopsy(isinstance(error, TimeoutError)) from error
        finally:
            # An interrupted worker must not find this question's answers under the next one.
            self.tired = self.tired or not finished

    def _posted(self, question: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Fetched]]:
        """A question without what was fetched of its file, and where that lies in the inbox.

        Through the pipe it would take the child a millisecond a megabyte.
        """
        kind, source, *others = question
        if not isinstance(source, MediaFile) or not source.fetched:
            return question, []
        self.inbox.reset()
        places = [(offset, self.inbox.write_bytes(data)) for offset, data in source.fetched]
        return (kind, replace(source, fetched=()), *others), places

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
        self.memory.close()
        self.inbox.close()

    @property
    def usable(self) -> bool:
        return not self.tired and not self.pipe.closed and self.process.poll() is None


_LOCK = threading.RLock()
_CHILD: _Child | None = None
_MAIN = """
import sys
from pipeline.clips.decoding.child import serve
serve(*map(int, sys.argv[1:]))
"""


def _child() -> _Child:
    global _CHILD
    if _CHILD is None or not _CHILD.usable:
        close()
        _CHILD = _Child()
    return _CHILD


def _forget() -> None:
    """A forked worker must not share its parent's child."""
    global _CHILD
    _CHILD = None


os.register_at_fork(after_in_child=_forget)
atexit.register(close)
