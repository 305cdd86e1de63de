"""A file that is missing was deleted, if its folder is there and holds others: no outage."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress

import pyarrow.fs

from pipeline.clips.outage import check_losses, may_lose
from pipeline.clips.rejects import Reason
from pipeline.errors import UserError
from pipeline.storage import Location

_KNOWN_S = 10.0  # for which what a folder said is believed
_MOST = 10_000  # folders that are remembered
_said: dict[Location, tuple[float, bool]] = {}

Losses = Counter[tuple[Location, str]]  # clips by the folder of their file, and by `Reason`


def loss(uri: str, reason: str) -> tuple[Location, str]:
    """What `Losses` counts of a clip."""
    file = Location.named(uri)
    return Location(file.uri.rpartition("/")[0], file.query), reason


def check_media(what: str, losses: Losses, tried: int, allowed: float, before: float = 0.0) -> None:
    """`check_losses`, where clips whose files were deleted at their source do not count.

    Raises:
        Outage: so many others were lost that their media are away.
    """
    if losses.total() - before * tried > may_lose(tried, allowed):
        check_losses(what, _away(losses), tried, allowed, before)


def _away(losses: Losses) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for (folder, reason), count in losses.items():
        if reason != Reason.MISSING.value or not _is_there(folder):
            reasons[reason] += count
    return reasons


def _is_there(folder: Location) -> bool:
    """Whether a folder can be listed, and holds a file, as an empty mount point does not."""
    now = time.monotonic()
    then, found = _said.get(folder, (-_KNOWN_S, False))
    if now - then >= _KNOWN_S:
        if len(_said) >= _MOST:
            _said.clear()
        found = False
        with suppress(OSError, UserError):
            files = (info for info in folder.children() if info.type == pyarrow.fs.FileType.File)
            found = any(True for _ in files)
        _said[folder] = now, found
    return found
