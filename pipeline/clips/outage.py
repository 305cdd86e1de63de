"""An outage is not bad media: a stage that suddenly loses many clips stops."""

from __future__ import annotations

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
) -> None:
    """Raise `Outage` if a pass lost too many of its clips.

    Args:
        what: the stage, for the message.
        reasons: rejected clips by `Reason`, of the clips that were `tried`.
        allowed: the setting ``clips.max_rejected``, a share of the clips.
        before: the share that the pass before this one lost.
    """
    lost = sum(reasons.values())
    if lost - before * tried <= may_lose(tried, allowed):
        return
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]
    shown = ", ".join(f"{reason} {count:,}" for reason, count in common)
    share = min(1.0, lost / tried - before + 0.005)
    raise Outage(
        f"{what} stops: {lost:,} of {tried:,} clips could not be read ({shown}), "
        f"{before:.1%} in the pass before. Are the media away? Nothing of this stage counts; the "
        "same command tries these clips again. If the media are like this, "
        f"set clips.max_rejected={share:.2f}"
    )
