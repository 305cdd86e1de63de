"""A small file system of its own, to be filled up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    place: Path

    def fill(self) -> None:
        """Take all of its room."""
        with suppress(OSError), open(self.place / "ballast", "ab", buffering=0) as ballast:
            while True:
                ballast.write(b"\0" * 2**12)

    def free(self) -> None:
        (self.place / "ballast").unlink()


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Disk]:
    """A tmpfs there; skips the test where this user may not mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
