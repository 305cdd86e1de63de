"""One place where the error of any stage, however deep Ray wrapped it, becomes one clear line.

A `UserError` that a task, an actor or a training worker raised arrives at the driver inside Ray's
own errors, which print tracebacks. So does a disk without room. `as_user_error` finds either.
"""

from __future__ import annotations

import errno
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.errors import UserError

# What only somebody outside the job can change. Trying again at once meets it again.
_STORAGE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there or raise the quota",
    errno.EROFS: "make it writable",
    errno.EACCES: "give this user the right to it",
    errno.EPERM: "give this user the right to it",
    errno.EIO: "look at the disk",
    errno.EMFILE: "raise the limit (`ulimit -n`)",
    errno.ENFILE: "raise the machine's limit (`fs.file-max`)",
}
# What Ray Data appends to an error's message, or to its arguments.
_RAYS_ADVICE = re.compile(r"\s*Failed to .+? after \d+/\d+ attempts \(total backoff")
# A `UserError` or a subclass of it, as the last line of a traceback has it.
_SAID = re.compile(
    r"^pipeline\.[a-z_.]+\.(?:UserError|Malformed|Outage|Damaged|LeaseLost|Diverged|Storage(?:Away|Refused))"
    r": (.*?)\s*(?:\n\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
_RAY = {
    "OutOfDiskError": (
        "the disk of Ray's temporary folder is full, and its object store cannot spill: make room "
        "there, or set RAY_TMPDIR to a folder with room"
    ),
    "ObjectStoreFullError": (
        "Ray's object store is full: raise resources.object_store_mb (of a cluster: "
        "--object-store-memory of its nodes), or lower the batch sizes"
    ),
    "OutOfMemoryError": (
        "Ray stopped processes of this job because a node ran out of memory: lower the batch "
        "sizes, or raise resources.decode_cpus so that fewer clips are decoded at once"
    ),
}


def as_user_error(error: BaseException) -> UserError | None:
    """The one line that says what the user can put right, or None where a traceback serves better.

    A `UserError` comes back as it was raised, wherever that was. Storage that is full or may not
    be written to, and what Ray says of its own, come back as one that names the place.
    """
    node = text = ""
    for cause in _causes(error):
        if isinstance(cause, RayTaskError):  # its class is also that of its cause, which follows
            node = getattr(cause, "ip", "") or node
            text += str(cause)
        elif isinstance(cause, RayError) and type(cause).__name__ in _RAY:
            return UserError(f"{_RAY[type(cause).__name__]}; the same command then goes on")
        elif isinstance(cause, RayActorError):
            text += str(cause)
        elif isinstance(cause, UserError):
            said = _RAYS_ADVICE.split(str(cause))[0]
            return cause if said == str(cause) else UserError(said)
        elif isinstance(cause, OSError) and cause.errno in _STORAGE:
            return UserError(_storage(cause, node, text))
    return _from_text(text, node)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what `as_user_error` finds in an error of the ``with`` block, in its place."""
    try:
        yield
    except Exception as error:
        found = as_user_error(error)
        if found is None or found is error:
            raise
        raise found from None


def _storage(error: OSError, node: str, text: str) -> str:
    reason = str(error.strerror or error).partition(". Detail:")[0]
    named = str(error.filename or "")
    if not named or _RAYS_ADVICE.match(named):  # which takes its place
        found = re.search(rf"\[Errno {error.errno}\] [^\n]*: '([^'\n]+)'$", text, re.M)
        named = found[1] if found else ""
    place = f"{named}: " if named else ""
    where = f" (on node {node})" if node and node != _own_address() else ""
    told = f"{place}{errno.errorcode[error.errno or 0]}, {reason}{where}"
    return f"{told}; {_STORAGE[error.errno or 0]}, and give the same command again"


def _from_text(text: str, node: str) -> UserError | None:
    """Of a cause's cause, and of an actor that failed as it started, Ray keeps the text alone."""
    for part in text.split("\nThe above exception was the direct cause of"):
        *_, part = part.split("\nDuring handling of the above exception")
        if said := re.search(_SAID, part):
            return UserError(_RAYS_ADVICE.split(said[1])[0])
        found = re.search(r"^\w*Error: \[Errno (\d+)\] ([^:\n]*)(?:: '(.*)')?$", part, re.M)
        if found and int(found[1]) in _STORAGE:
            return UserError(_storage(OSError(int(found[1]), found[2], found[3]), node, ""))
    return None


def _own_address() -> str:
    return str(ray.util.get_node_ip_address())


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on, each once; the nearest first."""
    waiting, seen = deque([error]), set()
    while waiting:
        one = waiting.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        several = [
            *(getattr(one, "worker_failures", None) or {}).values(),  # WorkerGroupError
            *(getattr(one, "exceptions", None) or ()),  # ExceptionGroup
        ]
        named = ("cause", "controller_failure", "health_check_failure", "__cause__")
        several += [getattr(one, name, None) for name in named]
        waiting += [inner for inner in several if isinstance(inner, BaseException)]
