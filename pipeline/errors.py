"""The one exception that is meant for the user's eyes, and what parsers raise as one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# Control characters, and those that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with what a terminal would obey written out: names of files may hold anything."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class UserError(Exception):
    """Something the user can put right: the message says what, where and what to do.

    Jobs print the message alone, without a traceback, and leave with exit code 2.
    """


class Malformed(UserError, ValueError):
    """A file does not hold what its name says: it is damaged, or of somebody else's making."""


@contextmanager
def parsing(place: object, kind: str) -> Iterator[None]:
    """Around a parser alone: whatever it raises of a file's content becomes `Malformed`.

    Args:
        place: the file; kind: what it should be, with its article: ``a Parquet file``.

    Raises:
        Malformed: in one line. Errors of storage and of the user stay as they are.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise _malformed(place, kind, error) from None  # Arrow's, of bytes that make no sense
    except Exception as error:
        raise _malformed(place, kind, error) from None


def _malformed(place: object, kind: str, error: Exception) -> Malformed:
    said = " ".join(str(error).split())[:200]
    why = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return Malformed(f"{place} cannot be read as {kind} ({why})")
