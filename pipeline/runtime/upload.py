"""What ``ray job submit --working-dir`` would send: ``python -m pipeline.runtime.upload [FOLDER]``.

Ray sends the folder without what .gitignore and .rayignore name, and refuses more than 512 MiB
without saying what is large. This says it first; ``make submit`` asks here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from pathlib import Path

from ray._private import ray_constants
from ray._private.runtime_env import packaging

from pipeline.errors import UserError

LIMIT = packaging.GCS_STORAGE_MAX_SIZE
_REMARKABLE = 16 * 2**20  # code is a hundredth of it


def shipped(folder: Path) -> dict[str, int]:
    """Path in `folder` → bytes, of all files Ray would send; by its own rules, not quite git's."""
    folder = folder.absolute()
    files: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            files[str(path.relative_to(folder))] = path.stat().st_size

    excludes = packaging._get_excludes(folder, ray_constants.get_runtime_env_default_excludes())
    packaging._dir_travel(
        folder,
        [excludes],
        note,
        include_gitignore=os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1",
        logger=logging.getLogger(__name__),
    )
    return files


def check(folder: Path, limit: int = LIMIT) -> str:
    """A line on what would be sent, with the largest parts if it is more than code.

    Raises:
        UserError: it is no folder, or Ray would refuse it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    files = shipped(folder)
    total = sum(files.values())
    line = f"{folder} ships {_size(total)} in {len(files):,} files"
    parts: Counter[str] = Counter()
    for file, size in files.items():
        top, *below = Path(file).parts
        parts[f"{top}/" if below else top] += size
    shown = ", ".join(f"{name} {_size(size)}" for name, size in parts.most_common(5))
    if total >= limit:
        raise UserError(
            f"{line}, and Ray takes less than {_size(limit)}: {shown}. "
            "Move what is no code elsewhere, or name it in .rayignore"
        )
    return f"{line}: {shown}" if total >= _REMARKABLE else line


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


if __name__ == "__main__":
    try:
        print(check(Path(sys.argv[1] if len(sys.argv) > 1 else ".")), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
