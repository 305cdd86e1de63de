"""Training whose media go away stops before anything of it is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.clips.deleted import check_media, loss
from pipeline.clips.rejects import RejectedClip
from pipeline.storage import Location


class MediaWatch:
    """Counts a worker's clips since training last stood well, and those that could not be read."""

    def __init__(self, title: str, max_rejected: float) -> None:
        """Of the training of this title; `max_rejected`: the share of clips that may be lost."""
        self._title, self._allowed = title, max_rejected
        self._tried: list[np.ndarray] = []
        self._lost: dict[int, tuple[Location, str]] = {}  # clip → what `Losses` counts
        self._drawn = self._lost_draws = 0  # a clip may be drawn several times

    def saw(self, clips: np.ndarray, rejects: Iterable[RejectedClip]) -> None:
        """Note a batch: clip indices int64 [B], -1 for none, and what was lost of them."""
        lost = {r.clip_index: loss(r.uri, r.reason) for r in rejects if r.modality is None}
        self._tried.append(clips[clips >= 0])
        self._lost |= lost
        self._drawn += len(self._tried[-1])
        self._lost_draws += int(np.isin(self._tried[-1], list(lost)).sum())

    def check(self) -> None:
        """
        Raises:
            Outage: this worker lost too many of its clips.
        """
        if self._exceeds(self._lost_draws, self._drawn):  # else it is not worth a closer look
            self._check([self._seen()])

    def check_all(self) -> None:
        """`check` of all workers together, by each of them; the count begins again.

        Raises:
            Outage: the workers lost too many of their clips.
        """
        self._check(over_workers(self._seen()))
        self._tried, self._lost, self._drawn, self._lost_draws = [], {}, 0, 0

    def _seen(self) -> tuple[int, dict[int, tuple[Location, str]]]:
        self._tried = [np.unique(np.concatenate([np.zeros(0, np.int64), *self._tried]))]
        return len(self._tried[0]), self._lost

    def _check(self, parts: list[tuple[int, dict[int, tuple[Location, str]]]]) -> None:
        tried = sum(number for number, _ in parts)
        lost = {clip: which for _, part in parts for clip, which in part.items()}
        if self._exceeds(len(lost), tried):
            check_media(self._title, Counter(lost.values()), tried, self._allowed)

    def _exceeds(self, lost: int, tried: int) -> bool:
        """Whether it is more than is allowed, and than few clips may lose by chance (3 sigma)."""
        allowed = self._allowed * tried
        return lost > allowed + 3 * math.sqrt(allowed)


def over_workers(value: Any) -> list[Any]:
    """The value of every worker, on each of them; all must ask at the same steps."""
    import torch

    if not torch.distributed.is_initialized():
        return [value]
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, value)
    return parts
