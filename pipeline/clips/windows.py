"""The windows into which a whole file is cut: pure mathematics, no media."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from pipeline.config import IndexConfig

Window = tuple[float, float]  # first and last second on the file's clock

# Of a dense window, what may lie outside the file: a share of its length, and seconds at most. Else
# a file whose sound begins 20 ms late would have no window at 0.
_SHARE, _OUTSIDE_S = 0.25, 0.5
_ROUNDING = 1e-9  # of a division that should give a whole number


def windows(start_s: float, end_s: float, config: IndexConfig) -> list[Window]:
    """Of what can be used of a file, from `start_s` to `end_s`; at least one.

    Equal windows side by side, at least ``window_s`` long. With ``every_s`` dense ones: the n-th
    begins at ``n * every_s`` of the file's clock and is ``window_s`` long. A shorter file is one.
    """
    if not config.every_s:
        count = max(int((end_s - start_s) // config.window_s), 1)
        return list(pairwise(np.linspace(start_s, end_s, count + 1).tolist()))
    every_s, length = config.every_s, config.window_s
    outside = min(length * _SHARE, _OUTSIDE_S)
    first = max(math.ceil((start_s - outside) / every_s - _ROUNDING), 0)
    last = math.floor((end_s + outside - length) / every_s + _ROUNDING)
    dense = [(n * every_s, n * every_s + length) for n in range(first, last + 1)]
    return dense or [(start_s, end_s)]
