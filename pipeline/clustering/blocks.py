"""How the same bits come out for any number of shards and threads, and through any death.

The promise: the same kind of processor, data, settings and seed give the same labels. The scheme,
which every file of this package keeps to:

1. **Blocks.** Block ``b`` holds the clips ``[b * size, (b + 1) * size)`` that have features, in
   order of clip index. A shard is a range of whole blocks. Everything that involves a matrix
   product or a sum of inexact numbers is computed per block, on one thread: the search for the
   nearest centroid (`assign.py`), the projection, distances. So the operands and their shape are
   fixed by the data and not by the sharding.
2. **Exact sums.** Transformed vectors are float16 with ``|x| <= 1``. Such a number is a multiple
   of ``2**-24``, so float64 sums of up to ``2**29`` of them are exact: addition becomes
   associative, and any order of adding gives the same bits, on a GPU too. It also lets a shard
   keep running sums and only move the rows that changed cluster.
3. **Snapped sums.** Anything else that is added up across blocks (moments for PCA, squared norms,
   Sinkhorn's marginals) is rounded once per block to a fixed power-of-two grid (`snap`), coarse
   enough that the total of all blocks is exact in float64. Again order does not matter.
4. **Randomness** is drawn from (seed, purpose, numbers such as the iteration or the block), and
   positions are ordinals over the present clips in order of clip index.

Another kind of processor, another version of BLAS or a GPU rounds products differently. Then a row
between two centroids may get the other one, and iterations may end elsewhere, equally good.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClipBlocks:
    """The fixed division of clip indices 0..num_clips-1 into blocks of ``size``."""

    num_clips: int
    size: int

    @property
    def count(self) -> int:
        return -(-self.num_clips // self.size)

    def clips(self, first: int, last: int) -> tuple[int, int]:
        """Clip indices [start, stop) of the blocks [first, last)."""
        return min(first * self.size, self.num_clips), min(last * self.size, self.num_clips)

    def split(self, parts: int) -> list[tuple[int, int]]:
        """``parts`` ranges [first, last) of blocks, as equal as whole blocks allow."""
        edges = [self.count * i // parts for i in range(parts + 1)]
        return list(itertools.pairwise(edges))


def snap(values: np.ndarray | float, bound: float) -> np.ndarray:
    """Round to the finest power-of-two grid on which totals up to ``bound`` are exact in float64.

    Args:
        values: float64, the contribution of one block.
        bound: upper limit of the absolute value of every partial total over blocks, the same for
            all blocks of a run.
    """
    grid = 2.0 ** (math.ceil(math.log2(max(bound, 2.0**-900))) - 52)
    return np.rint(np.asarray(values, np.float64) / grid) * grid


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on nothing but the arguments."""
    entropy = (seed, zlib.crc32(purpose.encode()), *numbers)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


class Ordinals:
    """Positions among the present clips, in order of clip index, without a table of all of them.

    Args:
        counts: int64[num_blocks], present clips of every block.
    """

    def __init__(self, counts: np.ndarray):
        self.ends = np.cumsum(counts)

    @property
    def total(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, ordinals: np.ndarray) -> np.ndarray:
        """int64[m, 2]: block and row within the block of each ordinal."""
        block = np.searchsorted(self.ends, ordinals, side="right")
        start = np.concatenate([[0], self.ends])[block]
        return np.stack([block, ordinals - start], axis=1).astype(np.int64)
