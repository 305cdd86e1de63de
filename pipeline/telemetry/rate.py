"""How fast work advances now, and how long the rest will take."""

from __future__ import annotations

from collections import deque


class Rate:
    """Units per second over the last minute, from (time, count) pairs.

    The rate starts at the first unit, so start-up does not count. Units often arrive in batches:
    the window always reaches back to the second-to-last change, however long ago that was.

    Args:
        window_s: seconds of progress that the rate is taken over.
    """

    def __init__(self, window_s: float = 60.0) -> None:
        self.window_s = window_s
        self._changes: deque[tuple[float, float]] = deque()
        self._now = 0.0

    def add(self, at_s: float, done: float) -> None:
        """Note that `done` units were done at the time `at_s`; neither may fall."""
        self._now = at_s
        if done > (self._changes[-1][1] if self._changes else 0):
            self._changes.append((at_s, done))
        while len(self._changes) > 2 and self._changes[1][0] <= at_s - self.window_s:
            self._changes.popleft()

    @property
    def per_second(self) -> float | None:
        """None until the count has risen twice."""
        if len(self._changes) < 2:
            return None
        (start, before), (_, done) = self._changes[0], self._changes[-1]
        return (done - before) / (self._now - start)

    def left_s(self, total: float) -> float | None:
        """Seconds until `total` units are done, at least 0; None while the rate is unknown."""
        if self._changes and self._changes[-1][1] >= total:
            return 0.0
        rate = self.per_second
        return None if rate is None else (total - self._changes[-1][1]) / rate
