"""The machine, versions and date behind a measured number."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any


def about(*packages: str) -> dict[str, Any]:
    """Hardware, versions of `packages`, commit and date, for the head of a benchmark's JSON."""
    cpus = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)", cpus.read_text(), re.M) if cpus.exists() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:  # a cluster's nodes may lack git or the repository
        ended = subprocess.run([*git, "--exclude=*"], capture_output=True, text=True)
        commit = ended.stdout.strip()
    except FileNotFoundError:
        commit = ""
    return {
        "cpu": named[1] if named else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }
