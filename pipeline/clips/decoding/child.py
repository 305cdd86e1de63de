"""The decoding process of `isolation`: it answers its worker until the worker hangs up."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from pipeline.clips.decoding.decode import DecodedClip, each_clip, probe
from pipeline.clips.decoding.decoder import load_decoder
from pipeline.clips.decoding.shared_memory import SharedMemory
from pipeline.clips.decoding.shrink import shrink
from pipeline.errors import UserError

MEMORY_LIMIT = 3 << 30  # of a decoder; 8K video with 16 reference frames needs 0.8 GB
_GROWN = 1 << 30  # a child that holds more than this between files is replaced
_LOOK_EVERY = 16
_GRACE_S = 1.0  # between the limit that decoding checks by itself and the kernel's


def serve(pipe_handle: int, memory_handle: int, inbox_handle: int) -> None:
    """Answer questions ``(kind, source, *arguments)`` until the worker is gone.

    With each comes a list of what was fetched of the source: its offsets and places in the inbox.

    Answers are ``("answer", answer)``, the last one ``("end", (answer, tired))``; the worker raises
    ``("error", error)``.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(ValueError, OSError):  # not on this system
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = Connection(pipe_handle)
    shared, inbox = SharedMemory(memory_handle), SharedMemory(inbox_handle)
    asked = 0
    with suppress(EOFError, ConnectionError):  # the worker is gone
        while True:
            question, places = pipe.recv()
            if places:
                fetched = tuple((at, inbox.read_bytes(place)) for at, place in places)
                kind, source, *others = question
                question = (kind, replace(source, fetched=fetched), *others)
            try:
                last = None
                for answer in _answers(question, shared):
                    if last is not None:
                        pipe.send(("answer", last))
                    last = answer
                _allow(None)
                asked += 1
                tired = asked % _LOOK_EVERY == 0 and _resident() > _GROWN
                # With the last answer: one message less to wait for.
                pipe.send(("end", (last, tired)))
            except UserError as error:
                _allow(None)
                pipe.send(("error", error))


def _answers(question: tuple[Any, ...], shared: SharedMemory) -> Iterator[Any]:
    kind, *arguments = question
    if kind == "probe":
        _, timeout_s, decoder = arguments
        load_decoder(decoder)  # outside the time limit: it may import a large library
        _allow(timeout_s)
        yield probe(*arguments)
    elif kind == "shrink":
        _allow(arguments[3].timeout_s)
        yield shrink(*arguments)
    else:
        source, requests, config = arguments
        shared.reset()
        for number, clip in each_clip(source, requests, config, _allow):
            if isinstance(clip, DecodedClip):
                arrays = shared.write(clip.video), shared.write(clip.audio)
                yield number, (*arrays, clip.lost)
            else:
                yield number, clip


def _allow(seconds: float | None) -> None:
    """Let the kernel end this process unless the next step is done in time."""
    signal.setitimer(signal.ITIMER_REAL, 0.0 if seconds is None else seconds + _GRACE_S)


def _resident() -> int:
    with suppress(OSError), open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
