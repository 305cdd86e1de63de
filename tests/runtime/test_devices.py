"""Memory of processes that train on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.runtime.placement import KEEPS_MEMORY

STEPS = """
import resource, threading
import numpy as np

def step():
    tensors = [np.zeros(5_000_000, np.float32) + 1 for _ in range(4)]

def train():
    global before
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()

thread = threading.Thread(target=train)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
def test_steps_take_no_new_pages_from_the_kernel() -> None:
    def faults(settings: dict[str, str]) -> int:
        environment = {**os.environ, **settings}
        script = [sys.executable, "-c", STEPS]
        return int(subprocess.run(script, env=environment, capture_output=True, check=True).stdout)

    assert faults(KEEPS_MEMORY) < 0.1 * faults({})
