"""Training that diverged stops before anything of it is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.errors import UserError
from pipeline.learning.task import LearningTask


def check_finite(values: Mapping[str, float], task: LearningTask, when: str) -> None:
    """
    Args:
        values: losses by name; when: where training stood, for example ``step 3 of 20``.

    Raises:
        UserError: a loss is NaN or infinite.
    """
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise diverged(", ".join(bad), task, when)


def diverged(found: str, task: LearningTask, when: str) -> UserError:
    """The error of an update in which `found` is no number."""
    learning, precision = task.config.learning, task.config.precision
    advice = [f"lower learning.lr (it is {learning.lr:g})"]
    if not learning.clip_grad_norm:
        advice.append("or set learning.clip_grad_norm=1")
    if precision != "float32":
        advice.append(f"or set precision=float32 (it is {precision})")
    return UserError(
        f"{task.title} diverged at {when}: {found}. Nothing of it was kept: {', '.join(advice)}, "
        "and give the same command again"
    )
