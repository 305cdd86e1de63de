"""Damaged files, from real ones, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

KINDS = ("cut", "head_gone", "flips", "zeroed", "header_swapped", "shuffled", "doubled", "sizes")


def damaged(originals: Sequence[Path], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names (kind, number and suffix of the original) and contents."""
    rng = random.Random(seed)
    for i in range(count):
        original = rng.choice(originals)
        data = bytearray(original.read_bytes())
        kind = KINDS[i % len(KINDS)]
        if len(data) >= 64:
            other = rng.choice(originals)
            data = _damage(kind, data, rng, other)
        yield f"{i:05d}_{kind}_{original.stem[:24]}{original.suffix}", bytes(data)


def _damage(kind: str, data: bytearray, rng: random.Random, other: Path) -> bytearray:
    size = len(data)
    if kind == "cut":
        return data[: rng.randrange(1, size)]
    if kind == "head_gone":
        return data[rng.randrange(1, size // 2) :]
    if kind == "flips":
        for _ in range(rng.choice((1, 10, 100, 1000))):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "zeroed":
        for _ in range(rng.randrange(1, 5)):
            start = rng.randrange(size)
            end = min(size, start + rng.choice((16, 1024, 65536, size // 4)))
            data[start:end] = bytes(end - start)
    elif kind == "header_swapped":
        head = other.read_bytes()[: rng.choice((16, 256, 4096, 65536))]
        data[: len(head)] = head
    elif kind == "shuffled":
        block = max(64, size // 16)
        blocks = [data[i : i + block] for i in range(0, size, block)]
        a, b = rng.randrange(len(blocks)), rng.randrange(len(blocks))
        blocks[a], blocks[b] = blocks[b], blocks[a]
        return bytearray().join(blocks)
    elif kind == "doubled":
        start = rng.randrange(size)
        return data[:start] + data[max(0, start - size // 4) :]
    elif kind == "sizes":
        # Lengths, offsets and dimensions live in the header as big numbers.
        for _ in range(rng.randrange(1, 8)):
            start = rng.randrange(min(size - 4, 4096))
            data[start : start + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0")
            )
    return data
