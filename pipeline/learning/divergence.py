"""Training that diverged stops before anything of it is kept."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import UserError
from pipeline.learning.task import LearningTask

# A cross-entropy that nothing recovers from: guessing among a million classes has one of 14.
# Features of such an encoder would not fit the float16 in which they are kept.
LIMIT = 1e6


class Diverged(UserError):
    """Training whose losses or weights are no numbers any more."""


def check_values(values: Mapping[str, float], task: LearningTask, when: str) -> None:
    """
    Args:
        values: means by name; when: where training stood, for example ``step 3 of 20``.

    Raises:
        Diverged: a loss is NaN, infinite or absurd.
    """
    bad = [f"{name} is {value:.3g}" for name, value in values.items() if not abs(value) < LIMIT]
    if bad:
        raise diverged(", ".join(bad), task, when)


def diverged(found: str, task: LearningTask, when: str) -> Diverged:
    """The error of an update in which `found` was seen."""
    learning, precision = task.config.learning, task.config.precision
    advice = f"lower learning.lr (it is {learning.lr:g})"
    if not learning.clip_grad_norm:
        advice += " or set learning.clip_grad_norm=1"
    other = "" if precision == "float32" else f"; a new run may set precision=float32 ({precision})"
    return Diverged(
        f"{task.title} diverged at {when}: {found}. Nothing of it was kept: {advice}, and give the "
        f"same command again{other}"
    )
