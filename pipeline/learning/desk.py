"""Where the workers of a training group fetch what they are to do next.

Imports little: the process of this actor starts beside those of Ray Train, at every group's start.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

Given = tuple[int, list[ray.ObjectRef]]  # number of the update, boxed reference to it


@ray.remote(num_cpus=0)
class Desk:
    """One update lies on it at a time. Each call waits until it can answer."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._number = 0
        self._work: list[ray.ObjectRef] = []
        self._done, self._result = 0, None  # the last update that is done, and what came of it
        self._closed = False

    async def give(self, work: list[ray.ObjectRef]) -> Any:
        """Lay down an update; returns what comes of it, once all workers are done with it."""
        async with self._changed:
            self._number, self._work = self._number + 1, work
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._done == self._number)
            return self._result

    async def take(self, last: int) -> Given | None:
        """For a worker that did the update of number `last`, 0 for none: the next one.

        A worker that begins anew gets the one that is not done yet. None: there will be no more.
        """
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._number > max(self._done, last) or self._closed
            )
            return None if self._closed else (self._number, self._work)

    async def finish(self, number: int, result: Any) -> None:
        """For the first worker: all are done with the update of this number."""
        async with self._changed:
            self._done, self._result, self._work = number, result, []
            self._changed.notify_all()

    async def is_there(self) -> None:
        """For a worker that is at work: an error where there is no desk any more."""

    async def close(self) -> None:
        """Have the workers end, as soon as they ask."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
