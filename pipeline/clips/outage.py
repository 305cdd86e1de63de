"""An outage is not bad media: a stage that suddenly loses many clips stops."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from pipeline.errors import UserError

_EXAMPLES = 3  # of reasons named in a message


class Outage(UserError):
    """So many clips were lost at once that their media are away, rather than bad."""


def may_lose(clips: int, allowed: float) -> int:
    """How many of `clips` a pass may lose: the share `allowed`, and always one."""
    return max(int(allowed * clips), 1)


def check_losses(
    what: str,
    reasons: Mapping[str, int],
    tried: int,
    allowed: float,
    before: float = 0.0,
    kept: str = "Nothing of this stage counts",
) -> None:
    """Raise `Outage` if a pass lost too many of its clips.

    Args:
        what: the stage, for the message.
        reasons: rejected clips by `Reason`, of the clips that were `tried`.
        allowed: the setting ``clips.max_rejected``, a share of the clips.
        before: the share that the pass before this one lost.
        kept: what the user still has, for the message.
    """
    lost = sum(reasons.values())
    if lost - before * tried <= may_lose(tried, allowed):
        return
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]
    shown = ", ".join(f"{reason} {count:,}" for reason, count in common)
    share = min(1.0, lost / tried - before + 0.005)
    raise Outage(
        f"{what} stops: {lost:,} of {tried:,} clips could not be read ({shown}), "
        f"{before:.1%} in the pass before. Are the media away? {kept}; the same command "
        "tries these clips again. If the media are like this, "
        f"set clips.max_rejected={share:.2f}"
    )


class RecentLosses:
    """What a stage that goes on for hours lost of late.

    All it ever did would hide an outage at its end, and its last piece, if small, would take two
    bad files for one: so each piece is judged with the pieces before it, as far as it takes to have
    `enough` clips.
    """

    def __init__(self, what: str, allowed: float, enough: int) -> None:
        self._what, self._allowed, self._enough = what, allowed, enough
        self._pieces: deque[tuple[Counter[str], int]] = deque()

    def add(self, reasons: Counter[str], tried: int, kept: str) -> None:
        """Judge one more piece; the arguments are those of `check_losses`. Raises Outage."""
        self._pieces.append((reasons, tried))
        total = sum(tried for _, tried in self._pieces)
        while total - self._pieces[0][1] >= self._enough:
            total -= self._pieces.popleft()[1]
        lost = sum((reasons for reasons, _ in self._pieces), Counter())
        check_losses(self._what, lost, total, self._allowed, kept=kept)
