"""How a training ends that Ray Train would begin again in vain."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from pipeline.errors import UserError
from pipeline.runtime.failures import as_user_error


class GivenUp(UserError):
    """The driver does not wait for this training any more."""


class HopelessEnds(UserCallback):
    """For Ray Train: ends a training at once whose worker met what a new worker would meet again.

    An exception in a callback ends the training without another attempt.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if found := as_user_error(error):
                raise found
