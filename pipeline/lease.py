"""One writer a place: a lease that its holder renews, and that others take over when it is dead.

The lease is one small file. On disks it is changed under the file's lock, in buckets by conditional
puts, so of two that try only one gets it. Nobody compares clocks of two machines: whoever wants the
place watches whether the file still changes.

A holder that was suspended finds out when it wakes: what makes a stage count (manifest.py) first
asks `check_held`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import objects
from pipeline.errors import UserError
from pipeline.patience import patiently
from pipeline.storage import Location

TTL_S = 30.0  # without a renewal for so long, another may take over
_held: list[Lease] = []


class LeaseLost(UserError):
    """Another process has taken over the place."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: a process, known again on its own machine."""

    token: str
    host: str
    space: str  # boot and namespace in which `pid` counts
    pid: int
    started: int  # of the process, in clock ticks since boot: pids are used again

    @classmethod
    def this_process(cls) -> Holder:
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), _space(), pid, _started(pid) or 0)

    @property
    def is_dead(self) -> bool:
        """Whether it certainly is; a process of another machine never is."""
        return self.space == _space() != "" and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass
class Lease:
    """A lease that this process holds, renewed by a thread until `release`."""

    place: Location  # the lease's file
    holder: Holder
    ttl_s: float = TTL_S

    def __post_init__(self) -> None:
        self._version: object = None  # of the file, as this process wrote it last
        self._renewed_s = 0.0
        self._count = 0
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self.lost = False

    def check(self) -> None:
        """Raises LeaseLost if another has taken over; cheap while renewals go well."""
        if not self.lost and _now_s() - self._renewed_s > self.ttl_s / 2:
            patiently(str(self.place), self._renew)
        if self.lost:
            raise LeaseLost(
                f"{self.place} was taken over by another process, while this one did not answer; "
                "it stops here, and writes nothing more"
            )

    def release(self) -> None:
        self._stop.set()
        with self._guard:
            if self in _held:
                _held.remove(self)
            if not self.lost:
                with suppress(OSError, LeaseLost):
                    self._put(b"")

    def _taken(self, on_lost: Callable[[], None]) -> None:
        _held.append(self)
        threading.Thread(target=self._keep, args=(on_lost,), daemon=True, name="lease").start()

    def _keep(self, on_lost: Callable[[], None]) -> None:
        while not self._stop.wait(self.ttl_s / 3):
            with suppress(OSError):  # storage is away; nobody else can take over meanwhile, either
                self._renew()
            if self.lost:
                on_lost()
                return

    def _renew(self) -> None:
        with self._guard:
            if self.lost or self._stop.is_set():
                return
            began = _now_s()
            self._count += 1
            try:
                self._put(_text(self.holder, self._count))
            except LeaseLost:
                self.lost = True
                return
            self._renewed_s = began

    def _put(self, text: bytes) -> None:
        """Write, if the file still is what this process wrote. Raises LeaseLost if it is not."""
        found = objects.put_if(self.place, text, self._version)
        if found is None:
            # Perhaps it is: an answer may be lost on its way.
            held = objects.get_version(self.place)
            holder = _holder(held[0]) if held else None
            if held is None or holder is None or holder.token != self.holder.token:
                raise LeaseLost
            found = objects.put_if(self.place, text, held[1])
            if found is None:
                raise LeaseLost
        self._version = found


@contextmanager
def hold(
    place: Location, what: str, on_lost: Callable[[], None] = lambda: None, ttl_s: float = TTL_S
) -> Iterator[Lease]:
    """Hold the lease of a file while the ``with`` block runs.

    Args:
        place: the lease's file.
        what: that it stands for, for messages: ``the run s3://…``.
        on_lost: called by a thread of this process when another has taken over.
        ttl_s: how long a holder that cannot be asked may be silent.

    Raises:
        UserError: another process holds it.
    """
    lease = Lease(place, Holder.this_process(), ttl_s)
    lease._version = _free(place, what, ttl_s)
    began = _now_s()
    try:
        patiently(str(place), lambda: lease._put(_text(lease.holder, 0)))
    except LeaseLost:
        raise UserError(f"another process has just begun to work on {what}; wait for it") from None
    lease._renewed_s = began
    lease._taken(on_lost)
    try:
        yield lease
    finally:
        lease.release()


def holder_of(place: Location) -> Holder | None:
    """Who holds a lease, or held it when it died; None where nobody does."""
    found = patiently(str(place), lambda: objects.get_version(place))
    return _holder(found[0]) if found else None


def check_held() -> None:
    """Raises LeaseLost if another process has taken over a lease that this one held."""
    for lease in list(_held):
        lease.check()


def _free(place: Location, what: str, ttl_s: float) -> object:
    """The version of the lease's file once nobody holds it. Raises UserError if somebody does."""
    seen, since, told = None, time.monotonic(), False
    while True:
        found = patiently(str(place), lambda: objects.get_version(place))
        holder = _holder(found[0]) if found else None
        if holder is None or holder.is_dead:
            return found[1] if found else None
        assert found is not None
        if seen is None:
            seen, since = found[0], time.monotonic()
        elif found[0] != seen:
            raise UserError(
                f"{holder} works on {what}; wait until it is done, or stop it. Two at once would "
                "overwrite each other"
            )
        elif time.monotonic() - since > ttl_s:
            return found[1]
        if not told and time.monotonic() - since > 1:
            told = True
            print(f"waits up to {ttl_s:.0f} s: {holder} was working on {what}", flush=True)
        time.sleep(min(0.25, ttl_s / 20))


def _text(holder: Holder, count: int) -> bytes:
    return json.dumps({**asdict(holder), "renewals": count}).encode()


def _holder(text: bytes) -> Holder | None:
    """None of a lease that was given back, or of which a kill left a part."""
    try:
        tree = json.loads(text)
        tree.pop("renewals")
        return Holder(**tree)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _space() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> int | None:
    """When a living process began; None where there is none."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    return None


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # it goes on while the machine is suspended
