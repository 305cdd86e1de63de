"""Storage that is away is waited for; storage that refuses is reported at once.

`Location` does all its work on remote storage through `patiently`. The time it waits is the setting
``resources.storage_patience_minutes``. An environment variable brings it to every process.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pipeline.errors import UserError

VARIABLE = "XDC_STORAGE_PATIENCE_S"
BOARD = "xdc-board"  # the actor that tells the driver what its workers announce
DEFAULT_S = 900.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_SAME_S = 60.0  # what many workers announce within this is one line
_QUIET_S = 2.0  # a shorter silence is not worth a line
# Nothing but the texts of pyarrow, obstore and boto3 tells one fault from another.
_CODE = re.compile(r"AWS Error (\w+)|error occurred \((\w+)\)")
_STATUS = re.compile(r"\(HTTP status (\d+)\)|status code:? (\d+)|error occurred \((\d+)\)")
_IS_AWAY = {
    *("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE"),
    *("SLOW_DOWN", "THROTTLING", "InternalError", "ServiceUnavailable", "SlowDown"),
    *("RequestTimeout", "Throttling"),
}
_IS_REFUSED = {
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET"),
    *("REQUEST_TIME_TOO_SKEWED", "REQUEST_EXPIRED", "INVALID_CLIENT_TOKEN_ID"),
    *("MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "NOT_AUTHORIZED", "VALIDATION"),
}
# Of other stores, and of connections that were never made.
_NO_CONNECTION = re.compile(
    r"HTTP error: |(?i:could not connect|couldn't connect|could not resolve|connection (was )?reset"
    r"|connection (was )?closed|get a new connection|timed out)"
    r"|\b(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED)\b"
)
_NO_ENTRY = re.compile(
    r"lacked the necessary privileges|incorrectly configured region"
    r"|\b(UNAUTHENTICATED|PERMISSION_DENIED)\b"
)
_Result = TypeVar("_Result")
_lock = threading.Lock()
_announced: dict[str, float] = {}  # when each line was announced last
_away: set[str] = set()  # buckets and hosts that this process waits for, and has told


class StorageAway(UserError, ConnectionError):
    """Storage did not answer for as long as the settings allow."""


class StorageRefused(UserError, PermissionError):
    """Storage answered, and did not let us in."""


def patiently(place: str, work: Callable[[], _Result]) -> _Result:
    """The result of `work`, which is done again while the storage of `place` is away.

    Raises:
        StorageAway: for longer than the settings allow.
        StorageRefused: keys, permissions, region or the bucket are wrong.
        OSError: any other fault, as it comes; FileNotFoundError where there is no such file.
    """
    root = _root(place)
    began, pause = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            result = work()
        except OSError as error:
            if is_refused(error):
                raise StorageRefused(
                    f"storage refuses {place}: {_first_line(error)}. Check the bucket's name and "
                    "region, the credentials and what they allow, and this machine's clock"
                ) from None
            if not is_away(error):
                raise
            waited = time.monotonic() - began
            if waited + pause > patience_s():
                raise StorageAway(
                    f"{place}: storage has not answered for {_minutes(waited)} "
                    f"({_first_line(error)}). The same command goes on from here once it does; "
                    "resources.storage_patience_minutes says how long to wait"
                ) from None
            if waited > _QUIET_S:
                _note_away(root)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        else:
            if root in _away:
                _note_back(root)
            return result


def patience_s() -> float:
    """How long this process waits for storage, in seconds."""
    return float(os.environ.get(VARIABLE, DEFAULT_S))


def is_away(error: OSError) -> bool:
    """Whether an error of storage may pass by itself."""
    if isinstance(error, UserError | FileNotFoundError | PermissionError):
        return False
    text = str(error)
    code, status = _found(_CODE, text), int(_found(_STATUS, text) or 0)
    if code in _IS_REFUSED:
        return False
    return (
        code in _IS_AWAY or status in (408, 429) or status >= 500 or _is(_NO_CONNECTION, text, code)
    )


def is_refused(error: OSError) -> bool:
    """Whether storage did not let us in."""
    if isinstance(error, UserError | FileNotFoundError):
        return False
    text = str(error)
    code, status = _found(_CODE, text), int(_found(_STATUS, text) or 0)
    refused = code in _IS_REFUSED or status in (301, 307, 400, 401, 403)
    return refused or isinstance(error, PermissionError) or _is(_NO_ENTRY, text, code)


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return next((group for group in match.groups() if group), "") if match else ""


def _is(pattern: re.Pattern[str], text: str, code: str) -> bool:
    return not code and pattern.search(text) is not None


def _root(place: str) -> str:
    """The bucket or host, which is away as a whole."""
    scheme, mark, rest = place.partition("://")
    return scheme + mark + rest.partition("/")[0]


def _note_away(root: str) -> None:
    with _lock:
        if root in _away:
            return
        _away.add(root)
    announce(
        f"{root} does not answer; waiting up to {_minutes(patience_s())} for it "
        "(resources.storage_patience_minutes)"
    )


def _note_back(root: str) -> None:
    with _lock:
        if root not in _away:
            return
        _away.remove(root)
    announce(f"{root} answers again")


def announce(line: str) -> None:
    """Print a line for the user, once a minute. A worker's is printed by the driver."""
    ray: Any = sys.modules.get("ray")  # not imported: encoders know storage, and no Ray
    connected = ray is not None and ray.is_initialized()
    if connected and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        with suppress(Exception):  # whatever is wrong with the board, the work goes on
            ray.get_actor(BOARD).announce.remote(line)
        return
    now = time.monotonic()
    with _lock:
        known = now - _announced.get(line, -math.inf) < _SAME_S
        _announced[line] = now
    if not known:
        print(line, flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _first_line(error: OSError) -> str:
    return str(error).partition("\n")[0][:300]
